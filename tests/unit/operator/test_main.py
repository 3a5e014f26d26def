"""The operator's process: how it ends."""

from __future__ import annotations

import pytest

from daemoneye.errors import DaemonEyeError
from daemoneye_operator import kube, main
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
