"""``kubectl daemoneye events``: through a port-forward to a real broker with the operator's own users and certificates."""

import asyncio
import json

import pytest

from daemoneye import envelope, subjects
from daemoneye.broker.admin import ensure_streams
from daemoneye.envelope import Envelope
from daemoneye.events import jsonread
from daemoneye.streams import declared
from daemoneye_cli import client
from daemoneye_cli.commands.cluster import events
from daemoneye_cli.main import main
from tests.support.broker import Broker, running
from tests.support.newer import ADDED, NEWER, descriptor, message
from tests.unit.analytics.factory import Exec
from tests.unit.cli.fakekubectl import Kubectl, forwarded_to, secret, started, told, with_broker

pytestmark = pytest.mark.integration
HOSTILE = "\x1b[31m\u202e\r"
NAMES = ("daemoneye-operator", "security")


def batch(node: str, *events: dict) -> bytes:
    lines = [
        {"kind": "event", "time": "2026-01-02T03:04:05Z", "start_time": "2026-01-02T03:04:05Z", "flags": [], "ppid": 1,
         "event": "process_exec", "node": node, "argv": [], "identity": "resolved", "cgroup_id": index + 1, **event}
        for index, event in enumerate(events)
    ]  # fmt: skip
    rows = [row for line in lines if (row := jsonread.parse_line(json.dumps(line).encode()))]
    sections, images, identities = jsonread.sections_of(rows)
    context = type(images)(images.record, images.rows, images.heap, context=True)
    return envelope.encode(Envelope(node, "b", 1, "urgent", 0, 0, 0), [*sections, context, identities])


async def publish(broker: Broker, node: str, *events: dict, shard: int = 0) -> None:
    connection = await broker.onlooker()
    await connection.jetstream(timeout=10).publish(subjects.events(shard, node, "urgent"), batch(node, *events))
    await connection.close()


@pytest.fixture
async def broker(tmp_path):
    with running(tmp_path / "broker") as found:
        await found.ready()
        operator = await found.connect("operator")
        streams = declared(2, events_max_bytes=64 << 20, findings_max_bytes=8 << 20)
        read = {subjects.EVENTS(0), subjects.EVENTS(1), subjects.SCHEMAS}
        await ensure_streams(operator.jetstream(timeout=10), [one for one in streams if one.name in read])
        await operator.close()
        await publish(
            found,
            "node-1",
            {"pid": 7, "exe": "/bin/first", "pod_uid": "u-1"},
            {"pid": 8, "exe": HOSTILE, "pod_uid": "u-2"},
        )
        await publish(found, "node-2", {"pid": 9, "exe": "/bin/third", "pod_uid": "u-3"})
        yield found


@pytest.fixture
def release(installed: Kubectl, broker: Broker) -> Kubectl:
    with_broker(installed, broker)
    return installed


@pytest.fixture
def forwarded(installed: Kubectl, broker: Broker) -> Kubectl:
    forwarded_to(installed, broker)
    return installed


@pytest.fixture
def external(release: Kubectl, broker: Broker) -> Kubectl:
    """The same broker, run by somebody else and reached without a port-forward."""
    nats = {"url": f"tls://localhost:{broker.clients[0]}", "external": True}
    release.gives("get configmap daemoneye-operator --namespace security*", told(nats))
    return release


async def run(*arguments: str) -> tuple[int, str, str]:
    """The command in a process of its own, as its signals and its port-forward are."""
    async with started(*arguments) as (process, _, _):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_events_for_people_and_programs(forwarded):
    status, out, err = await run("events")
    assert (status, err) == (0, "")
    assert [line.split(" · ")[0].rpartition(" ")[2] for line in out.splitlines()] == [
        "/bin/first",
        "\\x1b[31m\\u202e\\x0d",
        "/bin/third",
    ]
    status, out, err = await run("events", "--last", "1", "-o", "json")
    assert (status, err) == (0, "")
    (found,) = map(json.loads, out.splitlines())
    assert (found["kind"], found["node"], found["pid"]) == ("event", "node-2", 9)


async def test_events_of_a_newer_release_are_shown_by_its_descriptors(forwarded, broker):
    onlooker = await broker.onlooker()
    jetstream = onlooker.jetstream(timeout=10)
    batch = message([Exec(exe=b"/bin/new", pid=10), Exec(exe=b"/bin/newer", pid=11)], things=3)
    await jetstream.publish(subjects.events(0, "n1", "urgent"), batch)
    status, out, err = await run("events", "--last", "1", "-o", "json")
    (lost,) = map(json.loads, out.splitlines())
    assert (status, lost["stage"], lost["count"], err) == (0, "decode", 1, "")
    assert "the broker has no descriptor of it" in lost["reason"]
    for record in (NEWER, ADDED):
        await jetstream.publish(subjects.schemas(record.hash), descriptor(record))
    await onlooker.close()
    status, out, err = await run("events", "--last", "3", "-o", "json")
    first, second, lost = map(json.loads, out.splitlines())
    assert [(event["exe"], event["pid"]) for event in (first, second)] == [("/bin/new", 10), ("/bin/newer", 11)]
    assert (lost["kind"], lost["stage"], lost["count"], lost["node"]) == ("loss", "decode", 3, "n1")
    assert lost["reason"] == "events thing_done of a newer release cannot be shown"
    assert status == 0
    assert f"sensors of a newer release write schema {NEWER.hash} of 'process_exec': not read: mood" in err
    assert f"schema {ADDED.hash} of 'thing_done': this release does not know the record" in err
    status, out, _ = await run("events", "--last", "3")
    assert (status, len(out.splitlines())) == (0, 3)
    assert "LOST 3 at stage decode (urgent): events thing_done of a newer release" in out


async def test_all_streams_are_shown_as_one_in_the_order_of_coming(forwarded, broker):
    for at, shard in enumerate((1, 0, 1)):
        await publish(broker, f"node-{at}", {"pid": 20 + at, "exe": f"/bin/more-{at}"}, shard=shard)
    status, out, err = await run("events", "-o", "json", "--last", "5")
    assert (status, err) == (0, "")
    assert [json.loads(line)["pid"] for line in out.splitlines()] == [8, 9, 20, 21, 22]
    status, out, err = await run("events", "-o", "json", "--last", "2")
    assert [json.loads(line)["pid"] for line in out.splitlines()] == [21, 22]


async def test_choosing(forwarded):
    forwarded.gives("get pod till-1 --namespace shop*", {"metadata": {"uid": "u-2"}})
    for chosen, pids in (
        (("--node", "node-1"), [7, 8]),
        (("--pod", "shop/till-1"), [8]),
        (("--event", "process_exit"), []),
    ):
        status, out, err = await run("events", "-o", "json", *chosen)
        assert (status, err) == (0, "")
        assert [json.loads(line)["pid"] for line in out.splitlines()] == pids
    forwarded.fails("get pod gone*", 'Error from server (NotFound): pods "gone" not found')
    status, out, err = await run("events", "--pod", "shop/gone")
    assert (status, out) == (0, "")
    assert "there is no pod shop/gone now" in err


async def test_following_outlives_its_port_forward_and_ends_it(forwarded, broker):
    async with started("events", "-f", "--last", "1", "-o", "json") as (process, out, err):
        assert json.loads(await out.readline())["pid"] == 9
        (forward,) = forwarded.running("port-forward")
        forward.terminate()
        assert b"port-forward to service/daemoneye-nats" in await err.readline()
        # The same local port again: the connection comes back to it.
        while f"{broker.clients[0]}:4222" not in forwarded.calls[-1]:
            await asyncio.sleep(0.05)
        await publish(broker, "node-1", {"pid": 10, "exe": "/bin/fourth"})
        assert json.loads(await out.readline())["pid"] == 10
        process.terminate()
        assert await process.wait() == 0
    assert not forwarded.running("port-forward")


def test_a_certificate_of_somebody_else_is_refused_at_once(forwarded, broker, tmp_path, capsys, monkeypatch):
    from tests.cluster.harness.pki import Authority

    monkeypatch.setattr("daemoneye_cli.client._FIRST_S", 600.0)
    Authority(tmp_path / "other")
    data = {**broker.secrets.secrets["daemoneye-broker-cli"], "ca.crt": (tmp_path / "other" / "ca.crt").read_bytes()}
    forwarded.gives("get secret daemoneye-broker-cli*", secret(data))
    assert main(["-k", "events"]) == 3
    assert "certificate verify failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"stderr": 'Error from server (NotFound): secrets "x" not found\n', "status": 1},
            "the operator has not made it yet",
        ),
        (
            {"stderr": 'Error from server (Forbidden): secrets "x" is forbidden: User "u" cannot get\n', "status": 1},
            "can-i",
        ),
        ({"value": {"data": {"user": "eA=="}}}, "is not whole"),
        (
            {"value": secret({"user": b"u", "password": b"p", "inbox_prefix": b"i", "ca.crt": b"no certificate"})},
            "is not whole",
        ),
    ],
    ids=["missing", "forbidden", "partial", "no-certificate"],
)
def test_credentials_that_cannot_be_had(installed, answer, words, capsys):
    installed.gives("get secret*", **answer)
    assert main(["-k", "events"]) == 3
    assert words in capsys.readouterr().err


def test_a_service_that_is_not_there(installed, broker, capsys):
    installed.gives("get secret*", secret(broker.secrets.secrets["daemoneye-broker-cli"]))
    installed.fails("port-forward*", 'Error from server (NotFound): services "eye-daemoneye-nats" not found')
    assert main(["-k", "events"]) == 3
    assert 'services "eye-daemoneye-nats" not found' in capsys.readouterr().err


@pytest.mark.parametrize("authorities", ["of the Secret", "of the system"])
async def test_a_broker_of_ones_own_is_reached_directly(external, broker, authorities, monkeypatch):
    if authorities == "of the system":
        data = dict(broker.secrets.secrets["daemoneye-broker-cli"])
        (broker.directory / "system.crt").write_bytes(data.pop("ca.crt"))
        external.gives("get secret daemoneye-broker-cli --namespace security*", secret(data))
        monkeypatch.setenv("SSL_CERT_FILE", str(broker.directory / "system.crt"))
    status, out, err = await run("events", "-o", "json")
    assert (status, err) == (0, "")
    assert [json.loads(line)["pid"] for line in out.splitlines()] == [7, 8, 9]
    assert not [call for call in external.calls if "port-forward" in call]


def test_a_broker_of_ones_own_that_cannot_be_reached(external, monkeypatch, capsys):
    monkeypatch.setattr(client, "_FIRST_S", 1.0)
    nats = {"url": "tls://localhost:1", "external": True}
    external.gives("get configmap daemoneye-operator --namespace security*", told(nats))
    assert main(["-k", "events"]) == 3
    error = capsys.readouterr().err
    assert "the broker at tls://localhost:1 does not answer: " in error
    assert "it is the release's nats.external.url: run the command where that can be reached" in error


@pytest.fixture
def in_a_pod(release, monkeypatch, tmp_path) -> Kubectl:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))  # which holds no kubeconfig
    return release


async def test_a_pod_of_the_cluster_goes_straight_to_the_service(in_a_pod, broker):
    own = {"url": f"tls://localhost:{broker.clients[0]}", "external": False}
    in_a_pod.gives("get configmap daemoneye-operator --namespace security*", told(own))
    status, out, err = await run("events", "-o", "json")
    assert (status, err) == (0, "")
    assert [json.loads(line)["pid"] for line in out.splitlines()] == [7, 8, 9]
    assert not [call for call in in_a_pod.calls if "port-forward" in call]


def test_a_pod_that_is_not_let_through_is_told_the_labels(in_a_pod, monkeypatch, capsys):
    monkeypatch.setattr(client, "_FIRST_S", 1.0)
    own = {"url": "tls://localhost:1", "external": False}
    in_a_pod.gives("get configmap daemoneye-operator --namespace security*", told(own))
    assert main(["-k", "events"]) == 3
    labels = "app.kubernetes.io/name=daemoneye,app.kubernetes.io/instance=eye,app.kubernetes.io/component=cli"
    assert f"NetworkPolicies let pods of namespace security with the labels {labels} pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"stderr": 'Error from server (NotFound): configmaps "x" not found\n', "status": 1},
            "the ConfigMap eye-daemoneye-operator is not in namespace security",
        ),
        ({"value": {"data": {}}}, "does not hold the operator's settings"),
        ({"value": {"data": {"operator.json": "{"}}}, "does not hold the operator's settings"),
        ({"value": told([])}, "does not say where the broker is"),
        ({"value": told({"url": "nonsense"})}, "nonsense, which is no address"),
    ],
    ids=["missing", "empty", "broken", "no-mapping", "no-address"],
)
def test_a_configmap_that_does_not_say_where_the_broker_is(installed, answer, words, capsys):
    installed.gives("get configmap*", **answer)
    assert main(["-k", "events"]) == 3
    error = capsys.readouterr().err
    assert words in error
    assert "helm upgrade the release" in error


@pytest.mark.parametrize("pod", ["till", "a/b/c", "/x", "shop/"])
def test_a_pod_that_is_none(pod, capsys):
    assert main(["-k", "events", "--pod", pod]) == 2
    assert "write NAMESPACE/NAME" in capsys.readouterr().err


def test_an_event_that_is_none(capsys):
    assert main(["-k", "events", "--event", "telepathy"]) == 2
    error = capsys.readouterr().err
    assert "there is no such event; there are" in error
    assert "process_exec" in error


def test_a_pod_is_chosen_on_either_side_of_a_conversation():
    keep = events.wanted(None, ("shop", "till-1"), None, frozenset({"u-2"}))
    till = {"namespace": "shop", "pod": "till-1"}
    assert keep({**till, "peer": {"pod_uid": "u-9"}})
    assert keep({"pod_uid": "u-9", "peer": till})
    assert keep({"pod_uid": "u-9", "peer": {"pod_uid": "u-2"}})
    assert not keep({"pod_uid": "u-9", "peer": {"namespace": "shop", "pod": "till-2"}})
    assert not keep({"pod_uid": "u-9", "peer": "till-1"})
