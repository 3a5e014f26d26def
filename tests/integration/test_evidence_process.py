"""Analytics' process with evidence: a finding arms its node, and who may read is answered; without a token of its own it does not start."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from daemoneye import envelope, streams, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.envelope import Envelope
from daemoneye.events.codec import section_of
from daemoneye.events.flags import Flag
from daemoneye.events.registry import BY_NAME
from daemoneye.evidence import Arm
from daemoneye_operator.reconcile import analytics
from tests.chart.chart import NAMESPACE
from tests.support.analytics import Bench
from tests.support.apiserver import ApiServer
from tests.support.keeping import SHOP, install
from tests.support.ports import free_port
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, WORKLOAD, Exec
from tests.unit.operator.factory import policy

pytestmark = pytest.mark.integration
UID = "0a1b2c3d-0000-4000-8000-123456789abc"


class WithEvidence(Bench):
    """Analytics as the chart configures it with evidence."""

    door = 0

    def settings(self) -> dict[str, Any]:
        """The chart's, on other ports and with a token elsewhere."""
        told = {"namespace": NAMESPACE, "port": self.door, "service_account": str(self.path / "account")}
        return {**super().settings(), "evidence": told}


@pytest.fixture
async def bench(tmp_path: Path, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WithEvidence]:
    install(api)
    made = WithEvidence(tmp_path, free_port(), cluster=True, health=free_port())
    made.door = free_port()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    await made.start_broker()
    await made.connect()
    await made.add_cluster_streams()
    await ensure_streams(made.jetstream, [streams.evidence(max_bytes=16 << 20)])
    evidence = {"enabled": True, "seconds": 5}
    asked = policy("shop", 1, networkMonitoring={"enablePacketCapture": True, "evidence": evidence})
    await made.configure(analytics.encode(analytics.document([asked])))
    try:
        yield made
    finally:
        await made.close()


def found_now() -> bytes:
    """A message of an execution from memory in a pod, a moment ago."""
    row = Exec(exe=b"/memfd:x", pid=1000, flags=Flag.MEMFD)
    cgroup = section_of(
        BY_NAME["cgroup_identity"],
        {"cgroup_id": [1], "state": [2], "workload": [WORKLOAD], "container_id": [b""], "pod_uid": [UID.encode()]}, 1, context=True,
    )  # fmt: skip
    about = Envelope("n1", "b", 7, "urgent", 0, 0, time.time_ns() - 10 * factory.SECOND)
    sections = [factory.execs([row]), factory.execs([factory.INIT], context=True), cgroup, factory.pods({1: CHECKOUT})]
    return envelope.encode(about, sections)


async def test_a_finding_arms_its_node_and_who_may_read_is_answered(bench: WithEvidence, api: ApiServer):
    account = bench.path / "account"
    account.mkdir()
    (account / "token").write_text(api.token(NAMESPACE, "daemoneye-analytics"))
    (account / "ca.crt").write_bytes((api.pki / "ca.crt").read_bytes())
    armed: asyncio.Queue[Msg] = asyncio.Queue()
    assert bench.client
    await bench.client.subscribe(subjects.evidence_arm("n1"), cb=armed.put)
    await bench.start()
    await bench.eventually(lambda: bench.status and bench.status[-1]["config"])
    await bench.publish(found_now())
    async with asyncio.timeout(60):
        arm = Arm.decode((await armed.get()).data)
    (found,) = await bench.findings()
    assert (arm.finding, arm.pod_uid, arm.seconds, arm.max_bytes) == (found["id"], UID, 5, 16 << 20)

    def ask(account: str) -> tuple[int, str]:
        token = api.token(SHOP, account)
        request = urllib.request.Request(
            f"http://127.0.0.1:{bench.door}/v1/evidence/{arm.finding}", headers={"Authorization": f"Bearer {token}"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        return refused.value.code, json.load(refused.value)["error"]

    assert (await asyncio.to_thread(ask, "reader"))[0] == 409
    status, words = await asyncio.to_thread(ask, "other")
    assert (status, "namespace shop" in words) == (403, True)
    lines = [line for line in bench.log.splitlines() if "daemoneye.audit" in line]
    assert [json.loads(line[line.index("{") :])["allowed"] for line in lines] == [True, False]
    assert await bench.end() == 0
    assert "ermissions" not in bench.log, "its role suffices"


async def test_without_a_token_of_its_own_it_says_so_and_ends(bench: WithEvidence):
    await bench.start()
    assert bench.analytics
    assert await asyncio.wait_for(bench.analytics.wait(), 60) == 2
    assert "evidence: there is no API server to ask who may read" in bench.log
