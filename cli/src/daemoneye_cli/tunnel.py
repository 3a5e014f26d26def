"""The way to the cluster's broker: through the API server (``kubectl port-forward``), or straight where we run inside or it is outside.

Responsible for where it is, the credentials, the certificate's check and a port-forward that comes back and goes with us; not for
what is read then.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from daemoneye.errors import DaemonEyeError, MachineError
from daemoneye_cli.errors import NotThere
from daemoneye_cli.kube import Kubectl, ended, inside
from daemoneye_cli.release import COMPONENT, Release

PORT: Final = 4222
STATUS_INTERVAL_S: Final = 10.0
_SLOWEST_S: Final = 300.0
_MOST_PARTS: Final = 64

_FORWARDING: Final = re.compile(rb"^Forwarding from 127\.0\.0\.1:(\d+) -> ")
_READY_S: Final = 30.0
_RETRY_S: Final = 1.0
_KEYS: Final = ("user", "password", "inbox_prefix")
_UPGRADE: Final = "helm upgrade the release: the chart makes it"
_DOCTOR: Final = "kubectl daemoneye doctor says what is wrong"
_EXTERNAL_FIX: Final = (
    "it is the release's nats.external.url: run the command where that can be reached; its certificate is checked "
    "against nats.external.tlsSecretRef's authorities, without one against those of this machine"
)

Access = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the installation has its broker; ``external`` means that it is the user's own."""

    url: str
    external: bool

    @property
    def host(self) -> str:
        """Its name, which its certificate bears."""
        return urlsplit(self.url).hostname or ""


def broker(kube: Kubectl, release: Release) -> Broker:
    """Give what the operator was told of the broker.

    Raises:
        MachineError: Its ConfigMap is not there, may not be read or does not say.
    """
    name = _configmap(release)
    try:
        nats = settings(kube, release)["nats"]
        found = Broker(str(nats["url"]), bool(nats.get("external")))
    except (KeyError, TypeError, AttributeError):
        raise MachineError(f"the ConfigMap {name} does not say where the broker is", fix=_UPGRADE) from None
    if not found.host:
        message = f"the ConfigMap {name} says that the broker is at {found.url}, which is no address"
        raise MachineError(message, fix=_UPGRADE)
    return found


def settings(kube: Kubectl, release: Release) -> dict[str, Any]:
    """Give what the operator was told, as its ConfigMap has it; nothing of it is checked.

    Raises:
        MachineError: Its ConfigMap is not there, may not be read or holds no settings.
    """
    name = _configmap(release)
    try:
        configmap = kube.get("configmap", name, release.namespace)
    except NotThere:
        message = f"the ConfigMap {name} is not in namespace {release.namespace}"
        raise MachineError(message, fix=_UPGRADE) from None
    try:
        found = json.loads(configmap["data"]["operator.json"])
    except (KeyError, TypeError, AttributeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise MachineError(f"the ConfigMap {name} does not hold the operator's settings", fix=_UPGRADE)
    return found


def status_interval(told: dict[str, Any]) -> float:
    """Give the seconds between two heartbeats of a sensor, as the operator's settings have them; the default where they do not say."""
    sensor = told.get("sensor")
    seconds = sensor.get("statusIntervalSeconds") if isinstance(sensor, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 < seconds <= _SLOWEST_S else STATUS_INTERVAL_S


def analytics_parts(told: dict[str, Any]) -> int:
    """Give into how many parts analytics divides the workloads, as the operator's settings have it; 1 where they do not say."""
    parts = told.get("analyticsParts")
    return parts if isinstance(parts, int) and 1 <= parts <= _MOST_PARTS else 1


def credentials(kube: Kubectl, release: Release, where: Broker) -> Access:
    """Give user, password, inbox_prefix and TLS of the role ``cli``.

    A broker of the user's own may come without authorities: then the system's are meant.

    Raises:
        MachineError: There is no such Secret, it may not be read, or it does not hold together.
    """
    name = f"{release.fullname}-broker-cli"
    try:
        secret = kube.get("secret", name, release.namespace)
    except NotThere:
        message = f"the Secret {name} is not in namespace {release.namespace}: the operator has not made it yet"
        raise MachineError(message, fix="kubectl daemoneye status shows whether the operator is ready") from None
    broken = MachineError(f"the Secret {name} is not whole", fix="delete it: the operator makes it anew")
    try:
        values = {key: base64.b64decode(value, validate=True).decode() for key, value in secret["data"].items()}
        access: Access = {key: values[key] for key in _KEYS}
    except (KeyError, TypeError, AttributeError, binascii.Error, UnicodeDecodeError):
        raise broken from None
    authorities = values.get("ca.crt")
    if not (authorities or where.external):
        raise broken
    if authorities or where.url.startswith("tls://"):
        try:
            access["tls"] = ssl.create_default_context(cadata=authorities)
        except (ssl.SSLError, ValueError):
            raise broken from None
    return access


@contextlib.asynccontextmanager
async def access(kube: Kubectl, release: Release, *, on_trouble: Callable[[str], None]) -> AsyncIterator[Access]:
    """Give what :func:`daemoneye_cli.client.connect` takes, for as long as the context lasts."""
    where = await asyncio.to_thread(broker, kube, release)
    secret = await asyncio.to_thread(credentials, kube, release, where)
    if where.external:
        yield {**secret, "url": where.url, "fix": _EXTERNAL_FIX}
        return
    if inside() and kube.context is None and kube.kubeconfig is None:
        labels = f"{release.selector},{COMPONENT}=cli"
        fix = f"NetworkPolicies let pods of namespace {release.namespace} with the labels {labels} pass; {_DOCTOR}"
        yield {**secret, "url": where.url, "fix": fix}
        return
    forward = Forward(kube, release.namespace, f"service/{release.fullname}-nats", PORT, on_trouble)
    port = await forward.start()
    try:
        url = f"tls://127.0.0.1:{port}"
        yield {**secret, "url": url, "tls_hostname": where.host, "fix": _DOCTOR}
    finally:
        await forward.stop()


class Forward:
    """A port-forward on one local port: started again when it breaks, for the pod may be replaced."""

    def __init__(
        self, kube: Kubectl, namespace: str, target: str, remote: int, on_trouble: Callable[[str], None]
    ) -> None:
        """`target` is what kubectl forwards to, such as ``service/NAME``, `remote` the port there."""
        self._kube = kube
        self._namespace = namespace
        self._target = target
        self._remote = remote
        self._on_trouble = on_trouble
        self._port = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begin; gives the local port, which kubectl chooses. Raises kubectl's complaint if it does not begin."""
        begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(begun))
        try:
            async with asyncio.timeout(_READY_S):
                return await begun
        except TimeoutError:
            await self.stop()
            message = f"kubectl port-forward to {self._target} did not begin within {_READY_S:g} s"
            raise MachineError(message, fix="kubectl daemoneye status shows whether it is ready") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, begun: asyncio.Future[int]) -> None:
        while True:
            try:
                await self._once(begun)
                trouble = "it ended"
            except DaemonEyeError as error:
                if not begun.done():
                    begun.set_exception(error)
                    return
                trouble = str(error)
            if not begun.done():
                begun.set_exception(MachineError(f"kubectl port-forward to {self._target} ended at once"))
                return
            self._on_trouble(f"kubectl port-forward to {self._target}: {trouble}; starting it again")
            await asyncio.sleep(_RETRY_S)

    async def _once(self, begun: asyncio.Future[int]) -> None:
        where = ("--namespace", self._namespace, "--address", "127.0.0.1")
        ports = f"{self._port or ''}:{self._remote}"
        async with self._kube.running("port-forward", *where, self._target, ports) as process:
            assert process.stdout is not None  # noqa: S101 - for mypy: it is piped
            assert process.stderr is not None  # noqa: S101 - as above
            # A pipe that nobody reads would hold kubectl up; what it says of single connections is of no use to anybody.
            draining = asyncio.create_task(_last_words(process.stderr))
            try:
                async for line in process.stdout:
                    if (found := _FORWARDING.match(line)) and not begun.done():
                        self._port = int(found[1])
                        begun.set_result(self._port)
                await ended(process, said=await draining)
            finally:
                draining.cancel()


def _configmap(release: Release) -> str:
    return f"{release.fullname}-operator"


async def _last_words(stream: asyncio.StreamReader) -> str:
    last = b""
    async for line in stream:
        last = line if line.strip() else last
    return last.decode("utf-8", "replace")
