"""The callout's process beside a broker and an API server of the tests: `python -m daemoneye_operator callout` with its files elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from daemoneye_operator.brokersecrets import callout_name, role_name
from daemoneye_operator.callout import claims
from tests.chart.chart import NAMESPACE, render
from tests.support.apiserver import ApiServer
from tests.support.broker import Broker, until
from tests.support.ports import free_ports

ACCOUNT: Final = "daemoneye-callout"
SENSOR: Final = "daemoneye-sensor"
_MAIN: Final = """
import asyncio, logging, sys
from pathlib import Path
from daemoneye_operator import settings
from daemoneye_operator.callout import process
logging.basicConfig(level=logging.INFO)
told, broker, issuer, life = sys.argv[1:]
asyncio.run(process.serve(settings.load(Path(told)), Path(broker), Path(issuer), life=float(life)))
"""


def install(api: ApiServer) -> None:
    """Namespace, accounts and what the chart allows the callout."""
    api.namespace(NAMESPACE, ACCOUNT, SENSOR, "other")
    rendered = render("fullnameOverride=daemoneye")
    for kind, plural in (("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings")):
        api.create(f"/apis/rbac.authorization.k8s.io/v1/{plural}", rendered[f"{kind}/{ACCOUNT}"])


class Callout:
    """One process; can be killed and started again."""

    def __init__(self, broker: Broker, api: ApiServer, directory: Path, life: float = claims.LIFE_S) -> None:
        self._broker = broker
        self._directory = directory
        self._life = life
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        settings = broker.settings.model_dump(by_alias=True, mode="json", exclude_none=True)
        settings["nats"]["url"] = broker.access("operator").url
        settings["healthPort"] = self._port
        (directory / "operator.json").write_text(json.dumps(settings))
        api.kubeconfig(directory / "kubeconfig", NAMESPACE, ACCOUNT)

    def start(self) -> None:
        """Start it."""
        secrets = self._broker.directory
        arguments: list[str | Path] = [
            self._directory / "operator.json", secrets / role_name(self._broker.settings, "callout"),
            secrets / callout_name(self._broker.settings), str(self._life),
        ]  # fmt: skip
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "KUBECONFIG": str(self._directory / "kubeconfig")},
            )  # fmt: skip

    async def ready(self) -> None:
        """Wait for what the kubelet's probe waits for."""
        await until(f"the callout is ready: {self.log()}", lambda: self.says().get("ok"))

    def says(self) -> dict[str, Any]:
        """Its answer to /readyz; empty without one."""
        assert self._process is not None
        assert self._process.poll() is None, f"the callout ended: {self.log()}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=30) as answer:
                said: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            said = json.load(error)
        except OSError:
            said = {}
        return said

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        return process.wait(60)

    def log(self) -> str:
        """What it had to say."""
        path = self._directory / "log"
        return path.read_text() if path.exists() else ""


@contextmanager
def running(broker: Broker, api: ApiServer, directory: Path, life: float = claims.LIFE_S) -> Iterator[Callout]:
    """One that was started; ended whatever happens."""
    callout = Callout(broker, api, directory, life)
    try:
        callout.start()
        yield callout
    finally:
        callout.stop(signal.SIGKILL)
