"""Agents on the same work, interleaved in one run: what each costs, slows down, catches and stores."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench import machine
from tests.bench.agents import Absent, Agent, Sensor, Stored, all_agents, summary
from tests.bench.tables import Outcome, Target, median
from tests.bench.workloads import Counts, Workload, build, workspace

SETTLE_S: Final = 1.5
"""From the end of a workload to the look at the agent's clock: an agent that works late works in it."""
_MIB: Final = 1 << 20
_PEERS: Final = (("bpftrace", 1 / 8), ("execsnoop", 1 / 3))


@dataclass(slots=True)
class Figures:
    """Measurements of one agent, by workload: one value a round."""

    cpu: dict[str, list[float]] = field(default_factory=dict)
    helper: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    stored: dict[str, list[Stored]] = field(default_factory=dict)
    rss: list[float] = field(default_factory=list)
    bpf_us: list[float] = field(default_factory=list)
    peak_child: list[float] = field(default_factory=list)
    absent: str = ""


def run(*, rounds: int, scale: float, peers: dict[str, Path], only: frozenset[str] = frozenset()) -> Outcome:
    """The bench.

    Args:
        rounds: How often each agent does each workload.
        scale: Share of the full workloads.
        peers: Binaries that are not the distribution's, by name.
        only: Names of the agents that are wanted beside the baseline; all by default.
    """
    agents = [a for a in all_agents(peers) if not only or a.name in only or a.name == "none"]
    results = {agent.name: Figures() for agent in agents}
    with workspace() as directory:
        workloads = build(directory, Counts.sized(scale))
        for number in range(rounds + 1):
            timed = number < rounds  # the last round is for BPF time: measuring it costs time itself
            turn = number % len(agents)
            for agent in (*agents[turn:], *agents[:turn]):  # nobody is always the first
                with contextlib.nullcontext() if timed else machine.bpf_stats():
                    _round(
                        agent,
                        results[agent.name],
                        workloads,
                        directory / f"{agent.name.split()[0]}-{number}",
                        timed=timed,
                    )
    return _outcome(results, workloads)


def _round(agent: Agent, figures: Figures, workloads: dict[str, Workload], directory: Path, *, timed: bool) -> None:
    if figures.absent:
        return
    directory.mkdir()
    sys.stderr.write(f"bench: storm: {directory.name}\n")
    try:
        with _running(agent, directory):
            if not timed:
                _bpf_round(agent, figures, workloads["unthrottled"])
                return
            agent.mark()
            workloads["warm-up"].run()  # what is loaded, compiled and allocated once is no cost of an event
            time.sleep(SETTLE_S)
            done = {name: _one(agent, figures, workload) for name, workload in workloads.items() if name != "warm-up"}
            figures.rss.append(machine.usage(agent.roots()).rss / _MIB)
    except Absent as error:
        figures.absent = str(error)
        return
    for name, (pid, early) in done.items():
        if stored := early or agent.stored_at_end(workloads[name], pid):
            figures.stored.setdefault(name, []).append(stored)
    if isinstance(agent, Sensor) and agent.stack:
        figures.peak_child.append(agent.stack.peak_child / _MIB)


@contextlib.contextmanager
def _running(agent: Agent, directory: Path) -> Iterator[None]:
    try:
        agent.start(directory)
        yield
    finally:
        agent.stop()


def _one(agent: Agent, figures: Figures, workload: Workload) -> tuple[int, Stored | None]:
    agent.mark()
    before, helper = machine.usage(agent.roots()).cpu_s, machine.usage(agent.helpers()).cpu_s
    done = workload.run()
    figures.seconds.setdefault(workload.name, []).append(done.seconds)
    time.sleep(SETTLE_S)
    share = 10_000 / workload.execs if workload.execs else 1.0
    figures.cpu.setdefault(workload.name, []).append((machine.usage(agent.roots()).cpu_s - before) * share)
    figures.helper.setdefault(workload.name, []).append((machine.usage(agent.helpers()).cpu_s - helper) * share)
    return done.pid, agent.stored(workload)


def _bpf_round(agent: Agent, figures: Figures, workload: Workload) -> None:
    before, runs = machine.bpf_time(agent.roots())
    workload.run()
    after, runs_after = machine.bpf_time(agent.roots())
    if runs_after > runs:
        figures.bpf_us.append((after - before) / 1000 / workload.execs)


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _outcome(results: dict[str, Figures], workloads: dict[str, Workload]) -> Outcome:
    columns = (
        "agent", "CPU-s/10k unthrottled", "CPU-s/10k paced", "CPU-s/10k varied", "CPU-s/200k opens", "helper CPU-s/10k paced",
        "wall × unthrottled", "wall × opens", "captured", "RSS MB", "B/event stored", "BPF µs/exec",
    )  # fmt: skip
    outcome = Outcome("storm", columns)
    base = results["none"]
    for name, figures in results.items():
        if figures.absent:
            outcome.rows.append((name, figures.absent, *[""] * (len(columns) - 2)))
            outcome.data[name] = {"absent": figures.absent}
            continue
        ratios = {
            w: [a / b for a, b in zip(figures.seconds[w], base.seconds[w], strict=True)]
            for w in workloads
            if w in base.seconds and not workloads[w].paced
        }
        idle = name == "none"
        cpu = [[] if idle else figures.cpu[w] for w in ("unthrottled", "paced", "varied", "opens")]
        helper = figures.helper["paced"] if any(figures.helper["paced"]) else []
        outcome.rows.append(
            (
                name,
                *cpu,
                helper,
                ratios["unthrottled"],
                ratios["opens"],
                _captured(figures, workloads),
                [] if idle else figures.rss,
                _per_event(figures),
                figures.bpf_us,
            )
        )
        outcome.data[name] = {
            "cpu_s_per_10k": {w: summary(v) for w, v in figures.cpu.items()}, "helper_cpu_s_per_10k": {w: summary(v) for w, v in figures.helper.items()},
            "seconds": {w: summary(v) for w, v in figures.seconds.items()}, "wall_ratio": {w: summary(v) for w, v in ratios.items()},
            "captured": _captured(figures, workloads), "rss_mb": summary(figures.rss), "bpf_us_per_exec": summary(figures.bpf_us),
        }  # fmt: skip
    rate = workloads["unthrottled"].execs / (median(base.seconds["unthrottled"]) or 1)
    outcome.notes.append(
        f"baseline: {rate:,.0f} execs/s unthrottled; a helper is nats-server for daemoneye, kauditd for auditd"
    )
    outcome.notes.append(
        "captured: executions found in what was stored, of those made, in all rounds and storms together"
    )
    if "daemoneye" in results and not results["daemoneye"].absent:
        _ours(outcome, results, workloads)
    return outcome


def _captured(figures: Figures, workloads: dict[str, Workload]) -> str:
    seen = made = 0
    for name, many in figures.stored.items():
        if workloads[name].execs:
            known = [stored.execs for stored in many if stored.execs is not None]
            seen += sum(known)
            made += (workloads[name].execs + 1) * len(known)
    return f"{seen:,}/{made:,}" if made else "–"


def _per_event(figures: Figures) -> list[float]:
    return [s.bytes_per_event for w in ("paced",) for s in figures.stored.get(w, []) if s.bytes_per_event]


def _ours(outcome: Outcome, results: dict[str, Figures], workloads: dict[str, Workload]) -> None:
    """What only the sensor can tell, and what was aimed at."""
    ours = results["daemoneye"]
    sizes: dict[str, Any] = {}
    for name in ("unthrottled", "paced", "varied"):
        many = [s for s in ours.stored.get(name, []) if s.rows and s.execs]
        per_exec, per_row = [s.message_bytes / (s.execs or 1) for s in many], [s.message_bytes / s.rows for s in many]
        sizes[name] = {"per_exec": summary(per_exec), "per_row": summary(per_row)}
        if many:
            outcome.notes.append(
                f"daemoneye on the stream, {name}: {median(per_exec):.1f} bytes an execution (its fork and exit included), {median(per_row):.1f} a row"
            )
    lost = sum(s.lost or 0 for many in ours.stored.values() for s in many)
    outcome.notes.append(
        f"daemoneye: {lost} rows reported lost; largest resident size of the compile child {median(ours.peak_child) or 0:.0f} MB"
    )
    outcome.data["daemoneye"] |= {
        "stream_bytes": sizes,
        "lost": lost,
        "peak_compile_child_mb": summary(ours.peak_child),
    }
    for peer, share in _PEERS:
        other = results.get(peer)
        for workload in ("unthrottled", "paced"):
            mine, theirs = (
                median(ours.cpu[workload]),
                median(other.cpu[workload]) if other and not other.absent else None,
            )
            ratio = mine / theirs if mine and theirs else None
            outcome.targets.append(Target(f"agent CPU against {peer}, {workload}", ratio, share, unit="×"))
    outcome.targets.append(Target("resident size after the load", median(ours.rss), 90, unit=" MB"))
    outcome.targets.append(
        Target(
            "bytes an execution on the stream, unthrottled storm", sizes["unthrottled"]["per_exec"].get("median"), 50
        )
    )
    outcome.targets.append(Target("BPF time per fork+exec+exit", median(ours.bpf_us), 10, unit=" µs"))
    seen = sum(s.execs or 0 for w, many in ours.stored.items() if workloads[w].execs for s in many)
    made = sum((workloads[w].execs + 1) * len(many) for w, many in ours.stored.items() if workloads[w].execs)
    outcome.targets.append(Target("executions captured", seen / made if made else None, 1.0, at_least=True))
