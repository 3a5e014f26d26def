"""Evidence without a capture: analytics' part and a sensor's connection, with the rights of their roles, beside a broker and an API server."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import subjects
from daemoneye.evidence import Kept
from daemoneye.findings import Finding, Subject, finding_id
from daemoneye_analytics.vault.arming import Arming, Wanted
from daemoneye_analytics.vault.bucket import Bucket
from daemoneye_analytics.vault.door import PATH, Door
from daemoneye_analytics.vault.reviews import Reviews
from daemoneye_sensor.evidence import upload as sending
from tests.chart.chart import NAMESPACE, render
from tests.support.apiserver import ApiServer
from tests.support.broker import heard, until
from tests.support.sensors import NODE, Place

SHOP = "shop"
POLICY = {"packets": Wanted(30, 1 << 20)}
FILE = bytes(range(256)) * 2000  # more than a chunk


def install(api: ApiServer) -> None:
    """What the chart gives analytics with evidence, and in the shop's namespace one who may read and one who may not."""
    roles = "/apis/rbac.authorization.k8s.io/v1"
    if api.get(f"{roles}/clusterroles/daemoneye-evidence"):
        return
    rendered = render("fullnameOverride=daemoneye", "evidence.enabled=true")
    api.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "daemoneye-analytics"}})
    for kind, plural in (("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings")):
        api.create(f"{roles}/{plural}", rendered[f"{kind}/daemoneye-analytics"])
    api.create(f"{roles}/clusterroles", rendered["ClusterRole/daemoneye-evidence"])
    api.namespace(SHOP, "reader", "other")
    api.create(
        f"{roles}/namespaces/{SHOP}/rolebindings",
        {
            "metadata": {"name": "evidence"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "daemoneye-evidence"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": SHOP}],
        },
    )


@dataclass
class Evidence:
    """One test's view: the broker, analytics' connection and parts, and a sensor's connection."""

    place: Place
    client: Client
    bucket: Bucket
    arming: Arming
    sensor: Client
    armed: asyncio.Queue[Msg]
    port: int

    async def find(self, key: str = "k", **changes: Any) -> Finding:
        """A finding, for which packets are asked."""
        found = finding(key, **changes)
        self.arming.offer([found], POLICY)
        done = sum((self.arming.asked, self.arming.shared, self.arming.skipped))
        await until("it was offered", lambda: self.arming.asked + self.arming.shared + self.arming.skipped > done)
        return found

    async def keep(self, found: Finding, data: bytes = FILE, **changes: Any) -> Kept:
        """What the node's sensor does."""
        sent = await sending.upload(self.sensor, NODE, parts(data), patience=10)
        kept = Kept(found.id, NODE, sent.upload, sent.size, sent.chunks, sent.sha256, frames=7)
        kept = replace(kept, **changes)
        await sending.tell(self.sensor, kept, patience=10)
        return kept

    async def ask(self, finding: str, token: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body that the door answers."""

        def get() -> tuple[int, bytes]:
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}{PATH}{finding}", method=method)
            if token:
                request.add_header("Authorization", f"Bearer {token}")
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        return await asyncio.to_thread(get)


async def parts(data: bytes) -> AsyncIterator[bytes]:
    """As a file comes that is written."""
    yield data[:1000]
    yield data[1000:]


def finding(key: str = "k", *, ago: float = 0.0, **subject: Any) -> Finding:
    """One about a conversation of a pod, so many seconds old."""
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=ago)
    about: dict[str, Any] = {"node": NODE, "namespace": SHOP, "pod": "checkout", "pod_uid": "u-1", "workload": "shop/Deployment/checkout/app",
             "src_ip": "10.0.0.1", "src_port": 4711, "dst_ip": "10.0.0.2", "dst_port": 443, "proto": "tcp", **subject}  # fmt: skip
    number = time.time_ns()
    identity = finding_id(detector="d", version=1, node=NODE, pid=1, start_ns=1, event_ns=number, key=key)
    return Finding(
        id=identity, time=moment.isoformat(), severity="high", score=0.8, detector="d", title="t", subject=Subject(**about), key=key, policies=("packets",)
    )  # fmt: skip


@asynccontextmanager
async def opened(place: Place, reviews: Reviews) -> AsyncIterator[Evidence]:
    """Analytics' part, with the rights of its role, and a sensor that listens."""
    client, sensor = await place.broker.connect("analytics"), await place.sensor()
    bucket = Bucket(client)
    await bucket.listen()
    arming = Arming(client, bucket, NAMESPACE)
    running = asyncio.create_task(arming.run())
    armed: asyncio.Queue[Msg] = asyncio.Queue()
    await sensor.subscribe(subjects.evidence_arm(NODE), cb=armed.put)
    await heard(client)
    await heard(sensor)
    async with Door(bucket, reviews).open(0) as server:
        yield Evidence(place, client, bucket, arming, sensor, armed, server.sockets[0].getsockname()[1])
    running.cancel()
    await client.close()
    await sensor.close()
