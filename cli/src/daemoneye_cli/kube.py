"""The cluster, through the ``kubectl`` program: so that contexts, logins and proxies are what the user has set up there.

Responsible for running it (argument lists, no shell, bounded time) and for turning what it complains of into one clear
error; not for what the objects mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from daemoneye.errors import ConfigError, DaemonEyeError, MachineError
from daemoneye_cli import tether
from daemoneye_cli.errors import Forbidden, NoSuchKind, NotThere

_MANAGER: Final = "daemoneye-cli"
_REQUEST_S: Final = 30
_PATIENCE_S: Final = 90.0
"""kubectl asks several times where the server does not answer; lists of a large cluster take several requests."""
_END_S: Final = 3.0
_MAX_LINE: Final = 16 << 20
_LOG_LINE: Final = re.compile(r"^[IWEF]\d{4} ")
_NO_ANSWER: Final = ("was refused", "Unable to connect", "i/o timeout", "no such host", "TLS handshake", "x509:", "EOF")

Object = dict[str, Any]


class Kubectl:
    """Runs kubectl with the user's choice of cluster."""

    def __init__(self, *, context: str | None = None, kubeconfig: Path | None = None) -> None:
        self.context = context
        self.kubeconfig = kubeconfig

    def text(self, *arguments: str, given: str = "") -> str:
        """Give what kubectl writes, with ``given`` to read.

        Raises:
            ConfigError: The context or the configuration file is not there.
            NoSuchKind: The cluster lacks the kind.
            NotThere: There is no such object.
            Forbidden: The user may not ask that.
            MachineError: No kubectl, no answer, or anything else that kubectl says.
        """
        command = self._command("--request-timeout", f"{_REQUEST_S}s", *arguments)
        try:
            done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            message = f"kubectl {arguments[0]} did not end within {_PATIENCE_S:g} s"
            raise MachineError(message, fix="kubectl cluster-info shows whether the API server answers") from None
        except OSError as error:
            raise MachineError(f"{command[0]} cannot be run: {error.strerror}", fix=_INSTALL) from None
        if done.returncode:
            raise failure(done.stderr.decode("utf-8", "replace"))
        return done.stdout.decode("utf-8", "replace")

    def json(self, *arguments: str) -> Any:
        """Give what kubectl writes as JSON."""
        try:
            return json.loads(self.text(*arguments))
        except ValueError:
            raise DaemonEyeError(f"kubectl {' '.join(arguments[:2])} gave something that is no JSON") from None

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Give one object."""
        found: Object = self.json("get", kind, name, *_where(namespace), "-o", "json")
        return found

    def items(self, kinds: str, namespace: str | None = None, selector: str = "", field: str = "") -> list[Object]:
        """Give objects of one or several kinds (``a,b``); those of all namespaces without a namespace."""
        where = _where(namespace) or ["--all-namespaces"]
        chosen = ["--selector", selector] if selector else []
        chosen += ["--field-selector", field] if field else []
        found = self.json("get", kinds, *where, *chosen, "-o", "json")
        return list(found.get("items") or ())

    def apply(self, content: Object, *, dry_run: bool = False) -> None:
        """Have one object be as given, whatever it was before; with ``dry_run`` the API server only checks it."""
        # Its name is ours: whoever changed a field of it by hand gives way to what is said now.
        arguments = ["apply", "--server-side", "--force-conflicts", f"--field-manager={_MANAGER}", "--filename=-"]
        self.text(*arguments, *(["--dry-run=server"] if dry_run else []), given=json.dumps(content))

    async def watch(self, kind: str, namespace: str | None = None) -> AsyncIterator[tuple[str, Object]]:
        """Give every object as it is and then as it changes, with ``ADDED``, ``MODIFIED`` or ``DELETED``, until the server ends it."""
        where = _where(namespace) or ["--all-namespaces"]
        arguments = ("get", kind, *where, "--watch", "--output-watch-events", "-o", "json")
        async with self.running(*arguments) as process:
            assert process.stdout is not None  # noqa: S101 - for mypy: it is piped
            rest = ""
            # One object may take several lines, but no line holds two.
            async for line in process.stdout:
                rest += line.decode("utf-8", "replace")
                try:
                    event = json.loads(rest)
                except ValueError:
                    if len(rest) > _MAX_LINE:
                        raise DaemonEyeError("kubectl get --watch gave something that is no JSON") from None
                    continue
                rest = ""
                if isinstance(event, dict) and isinstance(event.get("object"), dict):
                    yield str(event.get("type", "")), event["object"]
            await ended(process)

    @contextlib.asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run kubectl in the background; it ends with the context, and with us whatever happens to us."""
        process = await asyncio.create_subprocess_exec(
            *tether.command(self._command(*arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            start_new_session=True,  # a terminal's Ctrl-C is for us
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(number)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_END_S):
                            await process.wait()
                            break

    def _command(self, *arguments: str) -> Sequence[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise MachineError("kubectl is not there: it is not on PATH", fix=_INSTALL)
        chosen = ["--context", self.context] if self.context is not None else []
        if self.kubeconfig is not None:
            chosen += ["--kubeconfig", str(self.kubeconfig)]
        return [program, *chosen, *arguments]


_INSTALL: Final = "install kubectl (https://kubernetes.io/docs/tasks/tools/) and put it on PATH"


async def ended(process: asyncio.subprocess.Process, said: str | None = None) -> None:
    """Wait for the end of a process that closed its output; raises its complaint, or ``said``, if it failed."""
    if said is None:
        assert process.stderr is not None  # noqa: S101 - for mypy: it is piped
        said = (await process.stderr.read()).decode("utf-8", "replace")
    if await process.wait():
        raise failure(said)


def failure(said: str) -> DaemonEyeError:
    """Make the error of what kubectl wrote before it failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not _LOG_LINE.match(line)]
    # Warnings come before the error, a hint may come after it.
    words = next((line for line in lines if line.lower().startswith(("error", "the connection", "unable"))), "")
    words = (words or (lines[-1] if lines else "it failed and said nothing")).removeprefix("error: ")
    if "context" in words and ("does not exist" in words or "was not found" in words):
        return ConfigError(f"kubectl: {words}: kubectl config get-contexts names those that exist")
    if words.startswith("stat ") or "error loading config file" in words:
        return ConfigError(f"kubectl: {words}: give the cluster's file with --kubeconfig or $KUBECONFIG")
    if "doesn't have a resource type" in words or "could not find the requested resource" in words:
        return NoSuchKind(f"kubectl: {words}", fix="install DaemonEye's CRDs: kubectl apply --server-side -f crds/")
    if "(NotFound)" in words:
        return NotThere(f"kubectl: {words.partition(': ')[2]}")
    if "(Forbidden)" in words:
        fix = "ask the cluster's administrator for this right; kubectl auth can-i --list shows what you have"
        return Forbidden(f"kubectl: {words.partition(': ')[2]}", fix=fix)
    if "Unauthorized" in words or "must be logged in" in words:
        return MachineError(f"kubectl: {words}", fix="log in to the cluster again")
    if any(mark in words for mark in _NO_ANSWER):
        fix = "choose the cluster with --context or --kubeconfig; kubectl cluster-info shows whether it answers"
        return MachineError(f"kubectl: {words}", fix=fix)
    return MachineError(f"kubectl: {words}")


def inside() -> bool:
    """Whether we run in a pod and nothing names another cluster: then the cluster's Services can be reached by name."""
    configured = os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser().exists()
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not configured


def _where(namespace: str | None) -> list[str]:
    return ["--namespace", namespace] if namespace else []
