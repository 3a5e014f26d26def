"""Drains about packets, explained by what the kernel's source knows."""

from __future__ import annotations

import numpy as np

from daemoneye.events.base import derive
from daemoneye.events.cgroup_identity import CGROUP_IDENTITY
from daemoneye.events.codec import Section, section_of
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye_sensor.enrich.explainer import Explainer
from daemoneye_sensor.enrich.identities import Identities
from daemoneye_sensor.sources.base import Drain
from tests.unit.sensor.sockrows import BOTH, CLIENT, ROW, SERVER, Row, asked, told

STRANGER = Row(("10.0.0.1", 1), SERVER, 10.5)


class Selective(Identities):
    """Some pairs belong to nobody."""

    selective = True

    def __init__(self, *nobodys: int) -> None:
        super().__init__()
        self.nobodys = np.array(nobodys, np.uint64)

    def excluded(self, pairs: np.ndarray) -> np.ndarray:
        return pairs[np.isin(pairs, self.nobodys)]


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


def drain_of(*rows: Row) -> Drain:
    section = asked(rows)
    return Drain("bulk", (section,), {"a": 1}, rows=len(rows), more=True)


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


def test_rows_go_when_neither_side_belongs_to_anybody() -> None:
    for nobodys, left in (
        ((), 2),
        ((pair(7),), 2),
        ((pair(8),), 2),
        ((pair(7), pair(8)), 1),
        ((pair(7), pair(8), 0), 0),
        ((0,), 1),
    ):
        explainer = learned(Selective(*nobodys))
        explained = explainer.explain(drain_of(ROW, STRANGER))
        assert (explained.rows, explainer.excluded) == (left, 2 - left), nobodys
        if not left:
            assert (explained.sections, explained.positions, explained.more) == ((), {"a": 1}, True)


def test_a_side_that_is_not_known_saves_no_row() -> None:
    explainer = learned(Selective(pair(8)))
    explainer.owners.forget()
    explainer.owners.learn(told(BOTH[1:]))
    assert explainer.explain(drain_of(Row(CLIENT, SERVER, 10.5))).rows == 0


def test_what_was_not_followed_is_forgotten() -> None:
    explainer = learned()
    explainer.forget()
    explained = explainer.explain(drain_of(ROW))
    assert by_name(explained)["dns_query"].rows["pid"].tolist() == [0]
    assert "process_exec" not in by_name(explained)
