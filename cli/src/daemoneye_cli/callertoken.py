"""A token that says who calls, as the API server knows him: for what asks the API server about its callers.

Responsible for finding one where kubectl has it: in its configuration (a token, a file, a login program) or, in a pod, the service account's; or
for having one made for a service account. A client certificate says to the API server who somebody is, and cannot be shown to anybody else.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from daemoneye.errors import ConfigError, MachineError
from daemoneye_cli.kube import Kubectl, inside

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_LOGIN_S: Final = 120.0
_FIX: Final = "have a short-lived one made for an account that may read it: --service-account NAMESPACE/NAME"


def of_caller(kube: Kubectl) -> str:
    """The token of the user of kubectl's context.

    Raises:
        MachineError: He has none, or it cannot be got.
    """
    if inside() and kube.context is None and kube.kubeconfig is None:
        return _file(_ACCOUNT)
    found = kube.json("config", "view", "--raw", "--minify", "-o", "json")
    users = found.get("users") or () if isinstance(found, dict) else ()
    user = next((entry.get("user") or {} for entry in users if isinstance(entry, dict)), {})
    if user.get("token"):
        return str(user["token"])
    if user.get("tokenFile"):
        return _file(Path(str(user["tokenFile"])))
    if isinstance(user.get("exec"), dict):
        return _login(user["exec"])
    raise MachineError("kubectl's user has no token to show (a client certificate is none)", fix=_FIX)


def of_service_account(kube: Kubectl, account: str) -> str:
    """A token for NAMESPACE/NAME, good for ten minutes.

    Raises:
        ConfigError: That is no such name.
        MachineError: kubectl's complaint.
    """
    namespace, slash, name = account.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ConfigError(f"--service-account {account}: write NAMESPACE/NAME")
    return kube.text("create", "token", name, "--namespace", namespace, "--duration", "10m").strip()


def _file(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"{path}: the token cannot be read: {error}", fix="log in to the cluster again") from None


def _login(program: dict[str, Any]) -> str:
    """Ask a login program as kubectl does (client.authentication.k8s.io)."""
    about = {"apiVersion": program.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    more = {
        str(one.get("name")): str(one.get("value", "")) for one in program.get("env") or () if isinstance(one, dict)
    }
    command = [str(program.get("command")), *map(str, program.get("args") or ())]
    fix = "log in to the cluster again"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_LOGIN_S, check=False,
            env={**os.environ, **more, "KUBERNETES_EXEC_INFO": json.dumps(about)},
        )  # fmt: skip
        token = json.loads(done.stdout)["status"]["token"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise MachineError(f"the login program {command[0]} gave no token: {error!r}", fix=fix) from None
    return str(token)
