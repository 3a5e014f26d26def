"""Requests to the API server, counted as they end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import Kube
from tests.support.kubeapi import OBJECTS, KubeApi, serving
from tests.support.ports import free_ports


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with serving() as api:
        yield api


@pytest.fixture
def kube(api: KubeApi) -> Iterator[Kube]:
    kube = Kube(api.client())
    yield kube
    kube.close()


async def test_requests_are_counted_by_method_and_code(kube: Kube, api: KubeApi):
    assert kube.requests.answered == float("-inf")
    for i in range(101):
        api.put(OBJECTS["pods"], f"p{i}", "shop")
    began = time.monotonic()
    await kube.list(OBJECTS["pods"])
    await kube.apply("/api/v1/nodes/n", {"metadata": {"name": "n"}})
    api.refuse = [503]
    with pytest.raises(ApiError):
        await kube.list(OBJECTS["pods"])
    assert kube.requests.by_method_and_code() == {("GET", 200): 2, ("PATCH", 200): 1, ("GET", 503): 1}
    assert kube.requests.answered > began


async def test_no_answer_is_code_0_and_no_sign_of_life(kube: Kube):
    kube.api.configuration.host = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ApiError):
        await kube.get("/api/v1/nodes/n")
    assert kube.requests.by_method_and_code() == {("GET", 0): 1}
    assert kube.requests.answered == float("-inf")


async def test_one_beside_is_counted_and_closed_with_it(api: KubeApi):
    kube = Kube(api.client(), at_once=1)
    other = kube.beside(at_once=1)
    await other.list(OBJECTS["pods"])
    assert kube.requests.by_method_and_code() == {("GET", 200): 1}
    kube.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await other.list(OBJECTS["pods"])
