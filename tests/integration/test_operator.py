"""The operator's process on a real API server and a real broker: what it tells of itself, and what it takes for a reason to end.

There is no controller and no kubelet, and a node is spoken for by a connection with its sensor's token. tests/cluster has the rest.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from daemoneye import metrics, subjects
from daemoneye_operator import resources
from daemoneye_operator.kube import path_of
from daemoneye_operator.reconcile import clock
from tests.chart.chart import NAMESPACE
from tests.cluster.operatorprocess import Node
from tests.support import operating
from tests.support.apiserver import ApiServer
from tests.support.operating import BLIND_S, Operator
from tests.support.sensors import NODE, OTHER, Place, Pods, place_in
from tests.unit.operator.factory import finding

pytestmark = pytest.mark.integration
GRACE_S = 30.0
"""Of a pod whose chart says nothing of it: then the kubelet kills."""
LEASE = path_of(resources.COORDINATION, "leases", "daemoneye-operator", NAMESPACE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, api: ApiServer, sensor_pods: Pods) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("place"), api, sensor_pods) as place:
        yield place


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory, place: Place, api: ApiServer) -> Iterator[Operator]:
    operating.install(api)
    api.namespace("shop")
    for node in (NODE, OTHER):
        api.create("/api/v1/nodes", {"metadata": {"name": node, "labels": {"kubernetes.io/os": "linux"}}})
    with operating.running(place.broker, api, tmp_path_factory.mktemp("operator") / "process") as operator:
        yield operator


async def until(operator: Operator, what: str, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The condition's first true value; the process is asked by another thread, for the test is its node, too."""
    deadline = time.monotonic() + seconds
    while not (value := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline, (
            f"not within {seconds:g} s: {what}; {operator.says('/readyz')}; {operator.log()}"
        )
        await asyncio.sleep(0.1)
    return value


async def ready(operator: Operator) -> None:
    await until(operator, "ready", lambda: operator.says("/readyz")[0] == 200)


def policy(api: ApiServer, name: str) -> None:
    api.create(
        resources.ours(resources.POLICIES),
        {"apiVersion": "daemoneye.io/v1alpha1", "kind": "DaemonEyePolicy", "metadata": {"name": name}, "spec": {}},
    )


def condition(api: ApiServer, name: str) -> str:
    found = api.get(resources.ours(resources.POLICIES, name)) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return next((one["status"] for one in conditions if one["type"] == "Ready" and one["reason"] != "Pending"), "")


def value(page: dict[str, Metric], metric: metrics.Metric, *labels: str) -> float | None:
    """Of one series; None where there is none."""
    name = metric.name + ("_count" if metric.kind == "histogram" else "")
    wanted = dict(zip(metric.labels, labels, strict=True))
    found = [s for family in page.values() for s in family.samples if s.name == name and s.labels == wanted]
    return found[0].value if found else None


@asynccontextmanager
async def node(place: Place) -> AsyncIterator[None]:
    sensor, analytics = await place.sensor(NODE), await place.broker.connect("analytics")
    beating = asyncio.create_task(Node(sensor, analytics, NODE).beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await sensor.close()
        await analytics.close()


async def test_the_page_is_what_is_declared_and_counts_what_happened(operator: Operator, place: Place, api: ApiServer):
    await ready(operator)
    policy(api, "p")
    async with node(place):
        analytics = await place.broker.connect("analytics")
        await analytics.jetstream().publish(
            subjects.findings("high"), finding(1, time=clock.rfc3339(time.time())).encode()
        )
        await analytics.jetstream().publish(subjects.findings("high"), b"no finding")
        await analytics.close()

        def told() -> dict[str, Metric] | None:
            page = operator.metrics()
            ones = (
                value(page, metrics.OPERATOR_FINDINGS, "high"), value(page, metrics.OPERATOR_FINDING_OBJECTS),
                value(page, metrics.OPERATOR_SENSORS, "silent"), value(page, metrics.OPERATOR_SENSORS, "ready"),
                value(page, metrics.OPERATOR_FINDINGS_CORRUPT),
                sum(value(page, metrics.OPERATOR_POLICIES, status) or 0 for status in ("True", "False", "Unknown")),
            )  # fmt: skip
            messages = value(page, metrics.OPERATOR_STREAM_MESSAGES, subjects.FINDINGS)  # it is looked at now and then
            waiting = value(page, metrics.OPERATOR_FINDINGS_WAITING)
            return page if set(ones) == {1} and messages == 2 and waiting == 0 else None

        page = await until(operator, "all of it", told)
    declared = {metric for metric in metrics.ALL.values() if metric.component in ("", "operator")}
    shown = {name + "_total" if family.type == "counter" else name: family for name, family in page.items()}
    assert shown.keys() == {metric.name for metric in declared}
    for metric in declared:
        family = shown[metric.name]
        assert family.documentation == metric.help
        assert family.type == metric.kind
        assert {tuple(sorted(s.labels.keys() - {"le"})) for s in family.samples} == {tuple(sorted(metric.labels))}

    assert value(page, metrics.BROKER_CONNECTED, "operator") == 1
    assert value(page, metrics.OPERATOR_SENSORS, "desired") == 2
    assert value(page, metrics.OPERATOR_SENSORS, "refusing") == 0
    assert [value(page, metrics.OPERATOR_FINDINGS, s) for s in subjects.SEVERITIES].count(0) == len(
        subjects.SEVERITIES
    ) - 1
    assert value(page, metrics.OPERATOR_FINDINGS_LOST) == 0
    passes, failed = (value(page, metrics.OPERATOR_PASSES, result) for result in ("ok", "failed"))
    assert passes
    assert failed is not None
    assert value(page, metrics.OPERATOR_PASS_SECONDS) == passes + failed
    assert value(page, metrics.OPERATOR_REQUESTS, "PATCH", "200")
    watched = {s.labels["resource"] for s in page[metrics.OPERATOR_WATCH.name].samples}
    assert watched == {"nodes", "daemonsets", "deployments", "pods", "findings", "leases"}
    in_days = [(value(page, metrics.OPERATOR_CERTIFICATE, c) or 0) - time.time() for c in ("ca", "server")]
    assert [round(seconds / 86_400) for seconds in in_days] == [3652, 365]
    assert value(page, metrics.OPERATOR_STREAM_MESSAGES, subjects.FINDINGS) == 2
    assert value(page, metrics.OPERATOR_STREAM_MAX, f"KV_{subjects.NODES_BUCKET}", "new") == 256 << 20
    stored, most = value(page, metrics.OPERATOR_STORE), value(page, metrics.OPERATOR_STORE_MAX)
    assert 0 < (stored or 0) < (most or 0) == place.broker.settings.nats.store_max_bytes
    assert sum(len(family.samples) for family in page.values()) < 150


async def test_the_lease_changes_and_goes_with_the_deployment(operator: Operator, api: ApiServer):
    await ready(operator)
    lease = await until(operator, "the Lease", lambda: api.get(LEASE))
    (owner,) = lease["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Deployment", "daemoneye-operator")
    renewed = lease["spec"]["renewTime"]
    await until(operator, "renewed", lambda: (api.get(LEASE) or {})["spec"]["renewTime"] > renewed)
    assert operator.says("/healthz") == (200, {"ok": True})


async def test_a_broker_that_is_away_leaves_no_old_values(operator: Operator, place: Place):
    await ready(operator)
    await until(operator, "streams", lambda: metrics.OPERATOR_STREAM.name in operator.metrics())
    place.broker.stop()
    try:
        page = await until(
            operator, "away",
            lambda: (p := operator.metrics()) and value(p, metrics.BROKER_CONNECTED, "operator") == 0 and p,
        )  # fmt: skip
        gone = (
            metrics.OPERATOR_STREAM,
            metrics.OPERATOR_STREAM_MESSAGES,
            metrics.OPERATOR_STREAM_MAX,
            metrics.OPERATOR_STORE,
        )
        assert not {metric.name for metric in gone} & page.keys()
        assert operator.says("/healthz")[0] == 200
    finally:
        place.broker.start()
        await place.broker.ready()
    await until(operator, "streams again", lambda: metrics.OPERATOR_STREAM.name in operator.metrics())


async def test_an_api_server_that_is_away_for_long_ends_nobody(operator: Operator, api: ApiServer):
    await ready(operator)
    await until(operator, "the Lease", lambda: api.get(LEASE))
    api.stop()
    try:
        away = time.monotonic()
        while time.monotonic() - away < 2 * BLIND_S:
            assert await asyncio.to_thread(operator.says, "/healthz") == (200, {"ok": True})
            await asyncio.sleep(0.25)
        page = await asyncio.to_thread(operator.metrics)
        assert value(page, metrics.OPERATOR_REQUESTS, "PATCH", "0")
    finally:
        await asyncio.to_thread(api.start)
    policy(api, "after")
    back = time.monotonic()
    # Nobody is taken for blind because he comes back a little later than others.
    while not await asyncio.to_thread(condition, api, "after"):
        assert await asyncio.to_thread(operator.says, "/healthz") == (200, {"ok": True})
        assert time.monotonic() - back < 120, operator.log()
        await asyncio.sleep(0.25)
    await asyncio.sleep(1.5 * BLIND_S)
    assert operator.says("/healthz") == (200, {"ok": True}), operator.log()


async def test_what_was_deleted_while_the_operator_was_cut_off_ends_nobody(operator: Operator, api: ApiServer):
    await ready(operator)
    policy(api, "goes")
    await until(operator, "its status", lambda: condition(api, "goes"))
    operator.signal(signal.SIGSTOP)
    try:
        # kopf's version has expired by then, and of what it lists it does not say what is missing.
        await asyncio.to_thread(api.stop)
        await asyncio.to_thread(api.start)
        api.delete(resources.ours(resources.POLICIES, "goes"))
    finally:
        operator.signal(signal.SIGCONT)
    policy(api, "comes")
    await until(operator, "a status", lambda: condition(api, "comes"))
    back = time.monotonic()
    while time.monotonic() - back < 2 * BLIND_S:
        assert await asyncio.to_thread(operator.says, "/healthz") == (200, {"ok": True})
        await asyncio.sleep(0.25)


async def test_a_kopf_that_sees_nothing_fails_the_liveness_probe(operator: Operator, api: ApiServer):
    await ready(operator)
    operator.deaf.touch()
    policy(api, "unseen")
    # The resync finds it and it gets its status; yet nobody told of it.
    await until(operator, "a status all the same", lambda: condition(api, "unseen"))
    said = await until(operator, "blind", lambda: (a := operator.says("/healthz"))[0] == 503 and a[1])
    assert said["ok"] is False
    assert said["blind"].startswith("kopf: nothing for ")
    operator.deaf.unlink()
    api.merge(resources.ours(resources.POLICIES, "unseen"), {"metadata": {"labels": {"seen": "yes"}}})
    await until(operator, "sees again", lambda: operator.says("/healthz")[0] == 200)


async def test_it_ends_in_time_and_well(operator: Operator):
    await ready(operator)
    began = time.monotonic()
    assert operator.stop() == 0, operator.log()
    assert time.monotonic() - began < GRACE_S
