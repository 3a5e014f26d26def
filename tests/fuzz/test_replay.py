"""Everything that was ever found by fuzzing, and a beginning of every kind: fed to its target again, without atheris.

`make fuzz` looks for more. Besides, the worth of 64 KiB made of these is given to every target and has to cost steps in proportion.
"""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.fuzz.tracing import traced
from tests.fuzz.worst import WORST

CORPUS = Path(__file__).parent / "corpus"
LARGE = 65_536
STEPS = 40
"""Lines of Python a byte, at most: a parser that looks at every byte a few times has some ten."""
MEMORY = 200
"""Bytes that are held at once a byte, at most; rows of tables cost most."""
FILES = sorted(CORPUS.glob("*/*"))


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert sum(path.stat().st_size for path in FILES) <= 200_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_is_kept_is_read(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def large(data: bytes) -> list[bytes]:
    """Some 64 KiB of the same again and again: all of it, its second half behind its first, its last bytes behind all, some of its middle."""
    half, tail = len(data) // 2, data[-16:]
    return [
        (data * (LARGE // len(data) + 1))[:LARGE],
        (data[:half] + data[half:] * (LARGE // max(len(data) - half, 1) + 1))[:LARGE],
        (data + tail * (LARGE // len(tail) + 1))[:LARGE],
        data[:half] + data[half : half + 8] * (LARGE // 8) + data[half:],
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_more_of_what_is_kept_costs_no_more_than_its_size(name: str) -> None:
    seeds = [path.read_bytes() for path in FILES if path.parent.name == name]
    for seed in sorted(filter(None, seeds), key=len)[-4:]:
        for data in large(seed):
            bounded(name, data)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in WORST.items() for kind in kinds])
def test_the_worst_that_was_thought_of_costs_no_more_than_its_size(name: str, kind: str) -> None:
    make = WORST[name][kind]
    half, whole = bounded(name, make(LARGE // 2)), bounded(name, make(LARGE))
    assert whole <= 2.5 * half + 5_000, f"{half} lines for half of it, {whole} for all"


def bounded(name: str, data: bytes) -> int:
    """Feed a target; the lines that it took, which have to be in proportion to the data, as its memory has."""
    run = TARGETS[name]
    run(data)  # whatever is loaded at first use is no cost
    taken, _ = traced(partial(run, data))
    assert taken <= STEPS * len(data), f"{taken / len(data):.1f} lines a byte for {data[:40]!r}…"
    tracemalloc.start()
    run(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= MEMORY * len(data), f"{peak / len(data):.0f} bytes a byte for {data[:40]!r}…"
    return taken
