"""The operator's process: how it begins and ends."""

from __future__ import annotations

import asyncio

import pytest

from daemoneye.errors import DaemonEyeError
from daemoneye_operator import kube, main
from daemoneye_operator.controller import Watches
from daemoneye_operator.kube import Kube
from tests.support.broker import until
from tests.support.kubeapi import KubeApi, serving
from tests.unit.operator.factory import settings


@pytest.fixture
def api(monkeypatch):
    with serving() as api:
        monkeypatch.setattr(kube, "client", api.client)
        yield api


async def test_an_error_of_ours_is_what_its_caller_reads(api: KubeApi, monkeypatch: pytest.MonkeyPatch):
    async def run(_: object) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [DaemonEyeError("kopf ended by itself")])

    monkeypatch.setattr(main._Operator, "run", run)
    with pytest.raises(DaemonEyeError, match="kopf ended by itself"):
        await main.serve(settings())


async def test_an_error_that_nobody_foresaw_is_told_in_whole(api: KubeApi, monkeypatch: pytest.MonkeyPatch):
    async def run(_: object) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [KeyError("nodeName"), DaemonEyeError("said")])

    monkeypatch.setattr(main._Operator, "run", run)
    with pytest.raises(ExceptionGroup):
        await main.serve(settings())


async def test_it_says_whose_first_list_it_waits_for(api: KubeApi):
    kube = Kube(api.client())
    watches = Watches(kube, settings(), lambda: None)
    operator = main._Operator(settings(), kube, asyncio.Event())
    watches.nodes.synced.set()
    waiting = asyncio.create_task(operator._first_lists(watches))
    await until("the second", lambda: "first list of daemonsets" in str(operator._ready()["starting"]))
    for watch in watches.all:
        watch.synced.set()
    await waiting
    kube.close()


async def test_what_is_wrong_with_secrets_is_for_readyz_and_once_a_minute_for_the_log(
    api: KubeApi, caplog: pytest.LogCaptureFixture
):
    kube = Kube(api.client())
    operator = main._Operator(settings(), kube, asyncio.Event())
    for words in ("no ca.crt", "no ca.crt", "no tls.key"):
        operator._complain(words)
        assert operator._ready()["secrets"] == words
    assert caplog.messages == ["no ca.crt", "no tls.key"]
    operator._complain("")
    assert operator._ready()["secrets"] == ""
    kube.close()
