"""The process table against a plain model: who descends from whom, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.events.ancestry import Images
from daemoneye.events.base import process_uid
from daemoneye.events.codec import Section, concatenate, section_of
from daemoneye.events.flags import Flag
from daemoneye.events.process_exec import PROCESS_EXEC
from daemoneye.events.process_exit import PROCESS_EXIT
from daemoneye.events.process_fork import PROCESS_FORK
from daemoneye_sensor.processes import ARGV_KEPT, ProcessTable


@dataclass
class Machine:
    """A toy machine that forks, executes and ends processes, and writes rows as the kernel would."""

    clock: int = 1000
    next_pid: int = 2
    alive: dict[int, tuple[int, int, int, bytes]] = field(
        default_factory=lambda: {1: (10, 0, 0, b"/init")}
    )  # pid: start, ppid, parent start, exe
    execs: list[dict[str, object]] = field(default_factory=list)
    forks: list[dict[str, object]] = field(default_factory=list)
    exits: list[dict[str, object]] = field(default_factory=list)
    expected: list[list[bytes]] = field(default_factory=list)  # ancestors' executables of each exec, nearest first

    def chain(self, pid: int) -> list[bytes]:
        found = []
        while pid in self.alive:
            found.append(self.alive[pid][3])
            pid = self.alive[pid][1]
        return found

    def row(self, pid: int) -> dict[str, object]:
        start, ppid, parent_start, _ = self.alive[pid]
        self.clock += 7
        return {"time": self.clock, "pid": pid, "start_time": start, "ppid": ppid, "parent_start_time": parent_start}

    def fork(self, parent: int) -> None:
        self.clock += 1
        pid, self.next_pid = self.next_pid, self.next_pid + 1
        self.alive[pid] = (self.clock, parent, self.alive[parent][0], self.alive[parent][3])
        self.forks.append(self.row(pid))

    def execute(self, pid: int, exe: bytes) -> None:
        start, ppid, parent_start, _ = self.alive[pid]
        self.alive[pid] = (start, ppid, parent_start, exe)
        self.execs.append({**self.row(pid), "exe": exe, "argv": exe + b"\0"})
        self.expected.append(self.chain(ppid)[:8])

    def end(self, pid: int) -> None:
        if pid == 1 or any(parent == pid for _, parent, _, _ in self.alive.values()):
            return  # reparenting is the kernel's business: rows then name another parent
        self.exits.append(self.row(pid))
        del self.alive[pid]

    def step(self, what: str, which: int, exe: bytes) -> None:
        """A fork, an execution or an end of one of those alive; anything else is the caller's."""
        pid = sorted(self.alive)[which % len(self.alive)]
        if what == "f":
            self.fork(pid)
        elif what == "e" and pid != 1:
            self.execute(pid, exe)
        elif what == "x":
            self.end(pid)

    def batch(self) -> tuple[list[Section], list[list[bytes]]]:
        sections = [
            made(r, rows)
            for r, rows in ((PROCESS_EXEC, self.execs), (PROCESS_FORK, self.forks), (PROCESS_EXIT, self.exits))
        ]
        expected, self.execs, self.forks, self.exits, self.expected = self.expected, [], [], [], []
        return sections, expected


def made(record: object, rows: list[dict[str, object]]) -> Section:
    names = {name for row in rows for name in row}
    section = section_of(record, {name: [row[name] for row in rows] for name in names}, len(rows))  # type: ignore[arg-type]
    section.rows["process_uid"] = process_uid(section.rows["pid"], section.rows["start_time"])
    section.rows["parent_uid"] = process_uid(section.rows["ppid"], section.rows["parent_start_time"])
    return section


def ancestors_by_reader(sections: list[Section], context: Section) -> list[list[bytes]]:
    """What a reader of the batch alone finds."""
    known = Images(concatenate([Section(PROCESS_EXEC, context.rows, context.heap), sections[0]]))
    exe = known.section.values("exe")
    rows = sections[0].rows
    return [[exe[k] for k in chain if k >= 0] for chain in known.ancestors(rows["parent_uid"], rows["time"])]


STEPS = st.lists(
    st.tuples(st.sampled_from("fffeeexb"), st.integers(0, 1000), st.sampled_from([b"/bin/a", b"/bin/b", b"/bin/c"])),
    max_size=60,
)


@given(STEPS)
def test_a_batch_alone_explains_its_ancestry(steps: list[tuple[str, int, bytes]]) -> None:
    machine, table = Machine(), ProcessTable()
    table.seed(made(PROCESS_EXEC, [{**machine.row(1), "time": 10, "exe": b"/init"}]))
    for what, which, exe in [*steps, ("b", 0, b"")]:
        machine.step(what, which, exe)
        if what == "b":
            sections, expected = machine.batch()
            context = table.explain(sections)
            assert ancestors_by_reader(sections, context) == expected


def test_the_table_forgets_what_ended_and_keeps_what_the_living_descend_from() -> None:
    machine, table = Machine(), ProcessTable()
    table.seed(made(PROCESS_EXEC, [{**machine.row(1), "time": 10, "exe": b"/init"}]))
    for _ in range(400):
        machine.fork(1)
        pid = max(machine.alive)
        machine.execute(pid, b"/bin/short")
        machine.end(pid)
        table.explain(machine.batch()[0])
    assert len(table) < 20


def test_one_process_that_executes_again_and_again_has_one_image() -> None:
    table = ProcessTable()
    for i in range(100):
        rows = [
            {"time": 10 + i, "pid": pid, "start_time": pid, "ppid": 0, "parent_start_time": 0, "exe": b"/again"}
            for pid in range(1, 21)
        ]
        table.explain([made(PROCESS_EXEC, rows)])  # no exits: a policy may have them switched off
    assert len(table) < 20 * 10


def test_ancestors_argv_is_bounded() -> None:
    table = ProcessTable()
    parent = {
        "time": 5,
        "pid": 2,
        "start_time": 4,
        "ppid": 0,
        "parent_start_time": 0,
        "exe": b"/p",
        "argv": b"x" * 5000,
    }
    table.explain([made(PROCESS_EXEC, [parent])])
    child = {"time": 9, "pid": 3, "start_time": 8, "ppid": 2, "parent_start_time": 4, "exe": b"/c", "argv": b"c\0"}
    context = table.explain([made(PROCESS_EXEC, [child])])
    assert context.values("exe") == [b"/p"]
    assert len(context.values("argv")[0]) == ARGV_KEPT
    assert context.rows["flags"][0] & Flag.ARGV_TRUNCATED


def test_an_image_that_came_after_the_child_is_not_its_parents() -> None:
    table = ProcessTable()
    rows = [
        {"time": 5, "pid": 2, "start_time": 4, "ppid": 0, "parent_start_time": 0, "exe": b"/before"},
        {"time": 7, "pid": 3, "start_time": 6, "ppid": 2, "parent_start_time": 4, "exe": b"/child"},
        {"time": 9, "pid": 2, "start_time": 4, "ppid": 0, "parent_start_time": 0, "exe": b"/after"},
        {"time": 11, "pid": 4, "start_time": 10, "ppid": 2, "parent_start_time": 4, "exe": b"/child"},
    ]
    sections = [made(PROCESS_EXEC, rows)]
    assert ancestors_by_reader(sections, table.explain(sections)) == [[], [b"/before"], [], [b"/after"]]
    table = ProcessTable()
    sections = [made(PROCESS_EXEC, rows[1:])]
    assert ancestors_by_reader(sections, table.explain(sections)) == [[], [], [b"/after"]]


def test_unknown_parents_are_unknown() -> None:
    table = ProcessTable()
    rows = [{"time": 5, "pid": 3, "start_time": 4, "ppid": 2, "parent_start_time": 1, "exe": b"/c"}]
    context = table.explain([made(PROCESS_EXEC, rows)])
    assert not len(context.rows)
    assert np.all(Images(made(PROCESS_EXEC, rows)).ancestors(np.array([99], np.uint64), np.array([5], np.uint64)) == -1)


@given(STEPS, st.sets(st.integers(0, 40)))
def test_a_batch_without_some_of_its_rows_still_explains_the_others(
    steps: list[tuple[str, int, bytes]], outside: set[int]
) -> None:
    machine, table = Machine(), ProcessTable()
    table.seed(made(PROCESS_EXEC, [{**machine.row(1), "time": 10, "exe": b"/init"}]))
    for what, which, exe in [*steps, ("b", 0, b"")]:
        machine.step(what, which, exe)
        if what == "b":
            sections, expected = machine.batch()
            keep = [~np.isin(section.rows["pid"], list(outside)) for section in sections]
            kept = [section.take(mask) for section, mask in zip(sections, keep, strict=True)]
            context = table.explain(sections, kept)
            wanted = [chain for chain, stays in zip(expected, keep[0], strict=True) if stays]
            assert ancestors_by_reader(kept, context) == wanted
            if not any(len(section.rows) for section in kept):
                assert not len(context.rows), "nobody is explained to nobody"


def test_images_of_processes_that_are_held_outlive_them() -> None:
    table, machine = ProcessTable(), Machine()
    machine.fork(1)
    machine.execute(2, b"/bin/talks")
    machine.fork(1)  # and executes nothing: it talks as its parent's image
    keys = [process_uid(np.array([pid]), np.array([machine.alive[pid][0]])) for pid in (1, 2, 3)]
    table.seed(section_of(PROCESS_EXEC, {"process_uid": keys[0], "pid": [1], "start_time": [10], "exe": [b"/init"]}, 1))
    for pid in (2, 3):
        machine.end(pid)
    sections, _ = machine.batch()
    table.hold(np.concatenate(keys[1:]))
    table.merge(sections)

    def known() -> dict[int, bytes]:
        images = table.merge([]).section
        return dict(zip(images.rows["pid"].tolist(), images.values("exe"), strict=True))

    for _ in range(20):
        assert known() == {1: b"/init", 2: b"/bin/talks", 3: b"/init"}
    table.hold(keys[2], only=True)
    for _ in range(10):
        table.merge([])
    assert known() == {1: b"/init", 3: b"/init"}
    table.hold(keys[2][:0], only=True)
    for _ in range(10):
        table.merge([])
    assert known() == {1: b"/init"}
