"""Drains about packets, explained by what the kernel's source knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daemoneye.events.base import derive
from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.codec import Section, section_of
from daemoneye.events.policy_set import set_number, sets_of, sets_section
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye.podidentity import PodIdentity
from daemoneye_sensor.enrich.bundles import Bundles
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.enrich.identities import Identities
from daemoneye_sensor.enrich.podrows import PodIdentities
from daemoneye_sensor.enrich.pods import Pods
from daemoneye_sensor.enrich.selection import Selection, captures
from daemoneye_sensor.sources.base import Drain
from tests.unit.sensor.sockrows import BOTH, CLIENT, ROW, SERVER, Row, asked, told

STRANGER = Row(("10.0.0.1", 1), SERVER, 10.5)


UIDS = {7: "0a1b2c3d-1111-4222-8333-000000000007", 8: "0a1b2c3d-1111-4222-8333-000000000008"}
CAPTURING = {"enable_packet_capture": True}
ALL, TILL, BANK, QUIET = POLICIES = (
    NodePolicy("all", "1", 1, network=CAPTURING),
    NodePolicy("till", "2", 1, host=False, pod_selector={"matchLabels": {"app": "till"}}, network=CAPTURING),
    NodePolicy("bank", "3", 1, host=False, pod_selector={"matchLabels": {"app": "bank"}}, network=CAPTURING),
    NodePolicy("quiet", "4", 1),
)


def selecting(*policies: NodePolicy) -> PodIdentities:
    """The node's pods: the client is app=till, the server app=bank."""
    pods = Pods()
    identities = PodIdentities(pods, Bundles(None))
    for pid, app in ((7, "till"), (8, "bank")):
        identities.learn({pair(pid): ("/", f"/kubepods/pod{UIDS[pid]}/{str(pid) * 64}")})
        pods.take(UIDS[pid], PodIdentity("shop", app, UIDS[pid], labels={"app": app}).encode())
    identities.select(Selection(NodeConfig(policies), captures))
    return identities


def pair(pid: int) -> int:
    return (pid + 100) << 32 ^ (pid + 200)


def learned(packets: Identities | None = None) -> Explainer:
    explainer = Explainer(packets=packets)
    images = section_of(
        PROCESS_EXEC, {"time": [1, 2, 3], "pid": [7, 8, 1], "start_time": [49, 56, 1], "ppid": [1, 1, 0], "parent_start_time": [1, 1, 0],
                       "exe": [b"/client", b"/server", b"/init"], "cgroup_id": [107, 108, 1]}, 3,
    )  # fmt: skip
    derive(PROCESS_EXEC, images.rows)
    explainer.table.seed(images)
    explainer.owners.learn(told(BOTH))
    return explainer


def drain_of(*rows: Row, asking: Sequence[NodePolicy] = ()) -> Drain:
    """Rows for which policies ask."""
    section = asked(rows)
    names = b"".join(policy.name.encode() + b"\0" for policy in asking)
    section.rows["policy_set"] = set_number(names)
    sets = (sets_section({set_number(names): names}),) if names else ()
    return Drain("bulk", (section, *sets), {"a": 1}, rows=len(rows), more=True)


def belonging(drain: Drain) -> list[str]:
    """The policies of each row, as a reader finds them."""
    sections = by_name(drain)
    sets = sets_of(sections.get("policy_set"))
    return [
        sets[number].decode().replace("\0", " ").strip() for number in sections["dns_query"].rows["policy_set"].tolist()
    ]


def by_name(drain: Drain) -> dict[str, Section]:
    return {section.record.name: section for section in drain.sections}


def test_a_drain_brings_both_processes_their_ancestors_and_all_their_cgroups() -> None:
    explained = learned().explain(drain_of(ROW, STRANGER))
    assert (explained.rows, explained.more, explained.positions) == (2, True, {"a": 1})
    sections = by_name(explained)
    assert [section.context for section in explained.sections] == [False, True, True]
    assert sections["dns_query"].rows["pid"].tolist() == [7, 0]
    assert sorted(sections["process_exec"].values("exe")) == [b"/client", b"/init", b"/server"]
    known = sections[CGROUP_IDENTITY.name].rows
    assert {pair(7), pair(8), 0} <= set((known["cgroup_id"] << np.uint64(32) ^ known["cgroup_v1_id"]).tolist())


def test_a_drain_without_rows_stays_as_it_is() -> None:
    empty = Drain("bulk", (), more=True)
    assert Explainer().explain(empty) is empty


def test_a_row_belongs_to_whoever_asks_for_it_and_selects_either_side() -> None:
    for asking, whose in (
        ((ALL,), ["all", "all"]),
        ((ALL, TILL), ["all till", "all till"]),
        ((TILL,), ["till", "till"]),  # of the stranger no process is known
        ((BANK,), ["bank", "bank"]),
        ((TILL, BANK), ["till bank", "till bank"]),
    ):
        explainer = learned(selecting(*POLICIES))
        explained = explainer.explain(drain_of(ROW, STRANGER, asking=asking))
        assert (belonging(explained), explainer.excluded) == (whose, 0), asking


def test_rows_that_belong_to_nobody_are_left_out_and_counted() -> None:
    other = NodePolicy("other", "5", 1, host=False, pod_selector={"matchLabels": {"app": "other"}}, network=CAPTURING)
    gone = NodePolicy("gone", "6", 1, network=CAPTURING)
    for policies, asking, whose in (
        ((TILL, BANK), (), []),  # nobody's filter took it
        ((ALL, QUIET), (QUIET, ALL), ["all", "all"]),  # who captures nothing has no packets
        ((ALL,), (gone,), []),  # asked for it before the configuration changed
        ((other,), (other,), ["other"]),  # selects neither side, and may be the stranger's
    ):
        explainer = learned(selecting(*policies))
        explained = explainer.explain(drain_of(ROW, STRANGER, asking=asking))
        left = belonging(explained) if explained.sections else []
        assert (left, explained.rows, explainer.excluded) == (whose, len(whose), 2 - len(whose)), asking
        if not left:
            assert (explained.sections, explained.positions, explained.more) == ((), {"a": 1}, True)


def test_a_side_that_is_not_known_saves_no_row() -> None:
    explainer = learned(selecting(TILL))
    explainer.owners.forget()
    explainer.owners.learn(told(BOTH[1:]))
    assert explainer.explain(drain_of(Row(CLIENT, SERVER, 10.5), asking=(TILL,))).rows == 0


def test_what_was_not_followed_is_forgotten() -> None:
    explainer = learned()
    explainer.forget()
    explained = explainer.explain(drain_of(ROW))
    assert by_name(explained)["dns_query"].rows["pid"].tolist() == [0]
    assert "process_exec" not in by_name(explained)
