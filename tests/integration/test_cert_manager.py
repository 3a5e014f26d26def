"""The broker's certificate from cert-manager: the operator's process, an API server and nats-servers are real, cert-manager's Secret is played.

So are the kubelet, who brings Secrets into files, and the StatefulSet's controller, who replaces servers one after the other.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from daemoneye import metrics
from daemoneye_operator import resources
from daemoneye_operator.kube import path_of
from daemoneye_operator.secretstore import RESTART_ANNOTATION
from tests.chart.chart import NAMESPACE
from tests.support import apiserver, callout, issuing, operating
from tests.support.apiserver import ApiServer
from tests.support.issuing import SECRET, Issuer
from tests.support.operating import Operator
from tests.support.sensors import Place, place_in, pods_of, put

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ISSUER = "nats.issuerRef.name=ours"
SECRETS = path_of(resources.CORE, "secrets", namespace=NAMESPACE)
SERVERS = path_of(resources.APPS, "statefulsets", "daemoneye-nats", NAMESPACE)


@dataclass
class World:
    """All of it; the operator was told of cert-manager, and the broker runs with what it made before."""

    place: Place
    api: ApiServer
    operator: Operator

    def issue(self, data: Mapping[str, bytes]) -> None:
        """What cert-manager does: the first time it makes the Secret, and later puts other data into it."""
        manifest = issuing.manifest(data)
        if self.api.get(f"{SECRETS}/{SECRET}") is None:
            self.api.create(SECRETS, manifest)
        else:
            gone = {key: None for key in ("tls.crt", "tls.key", "ca.crt") if key not in data}
            self.api.merge(f"{SECRETS}/{SECRET}", {"data": {**manifest["data"], **gone}})

    async def until(self, what: str, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Its first true value; it may take a thread's time."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (value := await asyncio.to_thread(condition)):
            assert asyncio.get_running_loop().time() < deadline, (
                f"not within {seconds:g} s: {what}; {self.operator.says('/readyz')}; {self.operator.log()}"
            )
            await asyncio.sleep(0.1)
        return value

    def says(self) -> str:
        """What the operator has to say of the broker's Secrets, while it is ready."""
        status, said = self.operator.says("/readyz")
        return str(said["secrets"]) if status == 200 else f"not ready: {said}"

    def ends(self, certificate: str) -> float:
        """Seconds since 1970, as Prometheus reads them."""
        (family,) = (f for name, f in self.operator.metrics().items() if name == metrics.OPERATOR_CERTIFICATE.name)
        return next(s.value for s in family.samples if s.labels == {"certificate": certificate})

    def shown(self) -> set[x509.Certificate | None]:
        """What the servers show who connects; None for one that is away."""
        return {_shown(port) for port in self.place.broker.clients}

    @asynccontextmanager
    async def cluster(self) -> AsyncIterator[None]:
        """What brings the operator's work to the pods, while the context lasts."""
        working = asyncio.create_task(self._cluster())
        try:
            yield
        finally:
            working.cancel()
            (ended,) = await asyncio.gather(working, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError), ended

    async def _cluster(self) -> None:
        broker, of = self.place.broker, ""
        while True:
            servers = await asyncio.to_thread(self.api.get, SERVERS)
            assert servers is not None
            for directory in broker.directory.glob("daemoneye-*/"):
                secret = await asyncio.to_thread(self.api.get, f"{SECRETS}/{directory.name}")
                for key, text in ((secret or {}).get("data") or {}).items():
                    (directory / key).write_bytes(base64.b64decode(text))
            wanted = servers["spec"]["template"]["metadata"].get("annotations", {}).get(RESTART_ANNOTATION, "")
            if wanted != of:
                of = wanted
                for server in reversed(range(len(broker.clients))):
                    await asyncio.to_thread(broker.stop, server)
                    broker.start(server)
                    await broker.ready(server)
            await asyncio.sleep(0.2)


def _shown(port: int) -> x509.Certificate | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            plain.recv(4096)  # nats-server speaks first, and in the clear
            with context.wrap_socket(plain) as secure:
                return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except OSError:
        return None


@pytest.fixture(params=[1, 3], ids=["one server", "three servers"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with apiserver.serving(tmp_path / "api") as api:
        callout.install(api)
        named = operating.install(api, ISSUER, apis=("cert-manager.io/v1",))
        api.create(path_of(resources.APPS, "statefulsets", namespace=NAMESPACE), named["StatefulSet/daemoneye-nats"])
        with (
            place_in(tmp_path, api, pods_of(api), replicas=request.param) as place,
            operating.running(place.broker, api, tmp_path / "operator", 1.0, certificateSecretRef={"name": SECRET}) as operator,
        ):  # fmt: skip
            yield World(place, api, operator)


async def test_what_cert_manager_issues_is_followed_and_what_is_no_good_is_said(world: World):
    place, now = world.place, dt.datetime.now(dt.UTC).replace(microsecond=0)
    urls = tuple(f"tls://localhost:{port}" for port in place.broker.clients)
    first, second = Issuer("first", now), Issuer("second", now)
    count = 0
    async with place.publishing(replace(place.access(), urls=urls)) as (spool, publisher), world.cluster():

        async def produce() -> None:
            nonlocal count
            while True:
                count += 1
                put(spool, publisher, count)
                await asyncio.sleep(0.02)  # its pace

        async def goes_on() -> None:
            published = publisher.stats.published
            await world.until("published", lambda: publisher.stats.published > published + 20)
            await world.until("ready", lambda: world.operator.says("/readyz")[0] == 200)

        async def takes(data: Mapping[str, bytes]) -> None:
            world.issue(data)
            wanted = x509.load_pem_x509_certificate(data["tls.crt"])
            await world.until("shown", lambda: world.shown() == {wanted})
            await goes_on()
            await world.until("nothing to say", lambda: world.says() == "")
            end = wanted.not_valid_after_utc.timestamp()
            await world.until("its end on the page", lambda: world.ends("server") == end)

        async def stays(data: Mapping[str, bytes], words: str) -> None:
            before = await asyncio.to_thread(world.shown)
            world.issue(data)
            said = await world.until(words, lambda: words in (said := world.says()) and said)
            assert f"Secret security/{SECRET}" in said
            assert said.endswith("the former certificate goes on")
            await world.until("the same in its log", lambda: words in world.operator.log())
            assert await asyncio.to_thread(world.shown) == before
            await goes_on()

        producing = asyncio.create_task(produce())
        await world.until(
            "said that there is none", lambda: "does not exist: cert-manager has not issued" in world.says()
        )
        await goes_on()
        await takes(first.secret(now))
        renewed = first.secret(now)
        await takes(renewed)
        await stays({key: renewed[key] for key in ("tls.crt", "tls.key")}, "has no key ca.crt")
        await stays({**renewed, "tls.key": second.secret(now)["tls.key"]}, "tls.key is not the key of tls.crt")
        await takes(second.secret(now))
        await takes(Issuer("below", now, dt.timedelta(days=365), above=second).secret(now))
        end = second.signed.not_valid_after_utc.timestamp()
        await world.until("the authority's end on the page", lambda: world.ends("ca") == end)
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)
        assert await publisher.drain(120)
        assert await place.stored() == list(range(1, count + 1))
