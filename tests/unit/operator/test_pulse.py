"""The operator's Lease: what is written is seen, or known not to be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from daemoneye_operator import pulse as module
from daemoneye_operator.controller import Watches
from daemoneye_operator.kube import Kube
from daemoneye_operator.pulse import Pulse
from tests.support.broker import until
from tests.support.kubeapi import KubeApi, serving
from tests.unit.operator.factory import settings

LEASES = "/apis/coordination.k8s.io/v1/namespaces/security/leases"
DEPLOYMENT = {"name": "daemoneye-operator", "uid": "u", "uninstall": False}


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with serving() as api:
        yield api


@pytest.fixture
def watches(api: KubeApi) -> Watches:
    kube: Any = type("Kube", (), {"api": None})()
    watches = Watches(kube, settings(), lambda: None)
    watches.deployment.objects["security", "daemoneye-operator"] = DEPLOYMENT
    return watches


@pytest.fixture
async def pulse(api: KubeApi, watches: Watches, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pulse]:
    """One whose watch runs, and which beats when it is told to or by `run`, quickly then."""
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    kube = Kube(api.client(), at_once=1)
    pulse = Pulse(kube, settings(), watches, "operator-0")
    watching = asyncio.create_task(pulse.watch.run())
    await until("a watch", lambda: any("watch" in query for _, query in api.asked))
    yield pulse
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    kube.close()


async def test_what_is_written_is_seen(pulse: Pulse, api: KubeApi):
    await pulse.beat()
    await until("seen", lambda: pulse.unseen_since() is None and pulse.watch.objects)
    (lease,) = api.page(LEASES, {"limit": "5"})["items"]
    assert lease["metadata"]["name"] == "daemoneye-operator"
    (owner,) = lease["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Deployment", "u")
    assert lease["spec"]["holderIdentity"] == "operator-0"
    assert lease["spec"]["renewTime"].endswith("Z")
    asked = {query.get("fieldSelector") for path, query in api.asked if path == LEASES}
    assert asked == {"metadata.name=daemoneye-operator"}


async def test_what_a_watch_does_not_show_is_known_since_the_first(pulse: Pulse, api: KubeApi):
    api.blind.add(LEASES)
    await pulse.beat()
    since = pulse.unseen_since()
    assert since is not None
    for _ in range(40):
        await pulse.beat()
    assert pulse.unseen_since() == since
    api.blind.clear()
    api.drop()
    await until("seen", lambda: pulse.unseen_since() is None)


async def test_a_watch_that_is_refused_is_not_blind(pulse: Pulse, api: KubeApi, monkeypatch: pytest.MonkeyPatch):
    """Rights to write the Lease and not to watch it: nothing that a new process would change."""
    monkeypatch.setattr("daemoneye_operator.watch._FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("daemoneye_operator.watch._LONGEST_WAIT_S", 0.01)
    api.blind.add(LEASES)
    await pulse.beat()
    assert pulse.unseen_since() is not None
    api.refuse = [403] * 100_000
    api.drop()
    first = pulse.watch.last_refused
    await until("refused", lambda: pulse.watch.last_refused > first)
    second = pulse.unseen_since() or 0.0
    await until("refused again", lambda: (pulse.unseen_since() or 0.0) > second)
    api.refuse.clear()
    api.blind.clear()
    await until("seen", lambda: pulse.unseen_since() is None)


async def test_a_refusal_is_said_once_and_waits_for_nothing(
    pulse: Pulse, api: KubeApi, caplog: pytest.LogCaptureFixture
):
    api.refuse = [403] * 3
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        beating = asyncio.create_task(pulse.run())
        await until("written in the end", lambda: not api.refuse and pulse.watch.objects)
        beating.cancel()
    assert len(caplog.records) == 1
    assert "403" in caplog.text
    await until("seen", lambda: pulse.unseen_since() is None)


async def test_nothing_is_made_that_nobody_would_own(pulse: Pulse, api: KubeApi, watches: Watches):
    assert watches.owner()
    watches.uninstalling()
    watches.deployment.objects.clear()
    assert watches.deserted()
    beating = asyncio.create_task(pulse.run())
    await asyncio.sleep(0.1)  # five times its period
    beating.cancel()
    assert not api.page(LEASES, {"limit": "5"})["items"]
