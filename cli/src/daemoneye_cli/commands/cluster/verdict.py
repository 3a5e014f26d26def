"""``kubectl daemoneye verdict``: say what a finding is, so that it is told no more for some time.

Responsible for the DetectionException of that, with the caller's own rights; the operator decides what it keeps silent. The Finding stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from daemoneye.api.v1alpha1.exception import KIND, DetectionExceptionSpec
from daemoneye.errors import ConfigError, MachineError
from daemoneye.escape import escape
from daemoneye_cli import namedfinding
from daemoneye_cli.commands.cluster.options import command, deadline, kubectl
from daemoneye_cli.commands.options import Subparsers, add_output, say
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.show.jsonlines import json_line

VERDICTS: Final = {"benign": "Benign", "accepted": "Accepted", "false-positive": "FalsePositive"}
SCOPE: Final = ("detector", "workload", "image", "key")
_DEFAULT: Final = ("detector", "workload", "key")
_UNTIL: Final = "30d"
_MALICIOUS: Final = "malicious is no verdict to write: delete nothing, and raise the finding where you handle incidents"


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "verdict", "Say what a finding is, so that it and those like it are told no more.")
    parser.add_argument(
        "finding", metavar="FINDING", help="NAMESPACE/NAME of the Finding, its NAME, or its last finding's id"
    )
    parser.add_argument(
        "verdict",
        metavar="VERDICT",
        type=verdict,
        help="benign (wanted, and learned), accepted (a risk that is lived with) or false-positive (wrong facts)",
    )
    parser.add_argument(
        "--scope", action="append", choices=SCOPE, help="what a finding must share with this one; may be repeated (default: detector, workload and key)"
    )  # fmt: skip
    parser.add_argument(
        "--until", metavar="TIME", type=deadline, default=_UNTIL, help=f"when it ends: 12h, 30d, 2027-01-31, or RFC 3339 (default {_UNTIL})"
    )  # fmt: skip
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, in a sentence")
    parser.add_argument("--owner", metavar="NAME", help="who answers for it (default: kubectl's user)")
    parser.add_argument("--dry-run", action="store_true", help="have the API server check it, and write nothing")
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def verdict(text: str) -> str:
    """Read a verdict; the API's word for it."""
    if text == "malicious":
        raise argparse.ArgumentTypeError(_MALICIOUS)
    if text not in VERDICTS:
        raise argparse.ArgumentTypeError(f"{text} is no verdict: write {', '.join(VERDICTS)}")
    return VERDICTS[text]


def run(options: argparse.Namespace) -> int:
    """Write it."""
    kube = kubectl(options)
    finding = namedfinding.by_name_or_id(kube, options.finding)
    scope = scope_of(finding, options.scope)
    spec = {
        "scope": scope,
        "verdict": options.verdict,
        "owner": options.owner if options.owner is not None else caller(kube),
        "reason": options.reason,
        "expiresAt": options.until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    content = exception(str(finding["metadata"]["namespace"]), spec)
    kube.apply(content, dry_run=options.dry_run)
    print(
        json_line(content) if options.output == "json" else escape(told(kube, content, options.dry_run)) + "\n", end=""
    )
    return 0


def scope_of(finding: Object, names: Sequence[str] | None) -> dict[str, str]:
    """Give the scope that is for a finding and those that share what is named.

    Raises:
        ConfigError: The finding lacks what was asked for.
    """
    spec = finding.get("spec") or {}
    subject = spec.get("subject") or {}
    # Only workload and image are patterns, in which nothing can be escaped: of the two, ? is the narrower for a * that is meant.
    values = {
        "detector": str(spec.get("detector") or ""),
        "workload": str(subject.get("workload") or "").replace("*", "?"),
        "image": str(subject.get("image") or "").replace("*", "?"),
        "key": str(spec.get("key") or ""),
    }
    scope = {name: values[name] for name in SCOPE if name in (names or _DEFAULT)}
    missing = [name for name, value in scope.items() if not value]
    if missing and names:
        raise ConfigError(f"--scope {missing[0]}: the finding has no {missing[0]}; choose among what it has")
    for name in missing:
        say(f"the finding has no {name}: the exception is for any")
        del scope[name]
    return scope


def exception(namespace: str, spec: dict[str, Any]) -> Object:
    """Give the object. Its name follows from the scope: another verdict about the same is the same object.

    Raises:
        ConfigError: Something in it is too long, or empty.
    """
    try:
        DetectionExceptionSpec.model_validate(spec, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    scope = spec["scope"]
    told_by = re.sub(r"[^a-z0-9]+", "-", scope.get("detector", "").lower()).strip("-") or "verdict"
    digest = hashlib.sha256(json.dumps(scope, sort_keys=True).encode()).hexdigest()[:10]
    return {
        "apiVersion": "daemoneye.io/v1alpha1",
        "kind": KIND,
        "metadata": {"name": f"{told_by}-{digest}", "namespace": namespace},
        "spec": spec,
    }


def caller(kube: Kubectl) -> str:
    """Give the name under which the API server knows kubectl's user.

    Raises:
        MachineError: It does not say.
    """
    fix = "say who answers for it: --owner NAME"
    try:
        found = kube.json("auth", "whoami", "-o", "json")
        name = str(found["status"]["userInfo"]["username"])
    except MachineError as error:
        raise MachineError(f"the cluster does not say who you are: {error.args[0]}", fix=fix) from None
    except (KeyError, TypeError):
        raise MachineError("the cluster does not say who you are", fix=fix) from None
    return name


def told(kube: Kubectl, content: Object, dry_run: bool) -> str:  # noqa: FBT001 - as the option
    """Give the line that says what was written and how to take it back."""
    meta, spec = content["metadata"], content["spec"]
    scope = ", ".join(f"{name} {value}" for name, value in spec["scope"].items())
    what = f"{KIND} {meta['namespace']}/{meta['name']}"
    about = f"{spec['verdict']} until {spec['expiresAt']}, by {spec['owner']}, for {scope}"
    if dry_run:
        return f"{what} would be written: {about}"
    cluster = [] if kube.context is None else ["--context", kube.context]
    cluster += [] if kube.kubeconfig is None else ["--kubeconfig", str(kube.kubeconfig)]
    back = shlex.join(["kubectl", *cluster, "delete", "deexc", meta["name"], "-n", meta["namespace"]])
    return f"{what} written: {about}; take it back with: {back}"
