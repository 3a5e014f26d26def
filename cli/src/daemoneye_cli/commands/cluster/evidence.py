"""``kubectl daemoneye evidence``: the packets that a node kept because of a finding, as a capture file.

Responsible for the way there (a port-forward to analytics, which answers nobody else) and for the file; whether the caller may have it, analytics
asks the API server.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError
from daemoneye_cli import namedfinding, wholefile
from daemoneye_cli.commands.cluster.options import command, kubectl, release
from daemoneye_cli.commands.options import Subparsers, say
from daemoneye_cli.errors import Forbidden
from daemoneye_cli.kube import Kubectl

if TYPE_CHECKING:
    from daemoneye_cli.tunnel import Forward

PORT: Final = 8081
_TIMEOUT_S: Final = 60.0
_MAX_COMPLAINT: Final = 64 << 10
_OFF: Final = "evidence is kept where the release has evidence.enabled and a policy networkMonitoring.evidence.enabled: docs/evidence.md"


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "evidence", "Fetch the packets that were kept because of a finding, as a pcapng file.")
    parser.add_argument("finding", metavar="FINDING", help="NAMESPACE/NAME of the Finding, its NAME, or a finding's id")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="where to write it; must not exist"
    )
    parser.add_argument(
        "--service-account", metavar="NAMESPACE/NAME", help="ask as this account, for kubectl users without a token"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch it."""
    # Half a second of imports that the other commands do not need.
    from daemoneye_cli import callertoken, tunnel

    if options.output.exists():
        raise ConfigError(f"-o {options.output}: it exists already")
    kube = kubectl(options)
    chosen = release(options, kube)
    finding = finding_id(kube, options.finding)
    account = options.service_account
    token = callertoken.of_service_account(kube, account) if account else callertoken.of_caller(kube)
    target = f"deployment/{chosen.fullname}-analytics"
    forward = tunnel.Forward(kube, chosen.namespace, target, PORT, say)
    size = asyncio.run(_fetch(forward, finding, token, options.output))
    say(f"{size} bytes written to {options.output}")
    return 0


def finding_id(kube: Kubectl, text: str) -> str:
    """Give the id that a finding is kept under.

    Raises:
        ConfigError: That names no finding, or several.
        MachineError: It has been told of no finding yet.
    """
    if namedfinding.ID.fullmatch(text):
        return text
    last = namedfinding.last_id(namedfinding.by_name(kube, text))
    if not namedfinding.ID.fullmatch(last):
        raise MachineError(f"the Finding {text} does not say yet which finding was its last")
    return last


async def _fetch(forward: Forward, finding: str, token: str, path: Path) -> int:
    port = await forward.start()
    try:
        return await asyncio.to_thread(fetch, port, finding, token, path)
    finally:
        await forward.stop()


def fetch(port: int, finding: str, token: str, path: Path) -> int:
    """Write the file, whole or not at all, for its owner only; its size.

    Raises:
        DaemonEyeError: Analytics refuses, or does not answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/v1/evidence/{finding}", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise _refusal(answer.status, answer.read(_MAX_COMPLAINT))
        return wholefile.write(path, answer, int(answer.headers.get("Content-Length") or 0))
    except (OSError, http.client.HTTPException) as error:
        raise MachineError(f"analytics did not answer: {error!r}", fix=_OFF) from None
    finally:
        connection.close()


def _refusal(status: int, body: bytes) -> DaemonEyeError:
    try:
        words = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        words = f"analytics answered {status}"
    if status in (401, 403):
        return Forbidden(
            words,
            fix="a RoleBinding to the release's ClusterRole …-evidence in the finding's namespace gives the right",
        )
    if status == 404:
        return MachineError(words, fix=_OFF)
    return MachineError(words)
