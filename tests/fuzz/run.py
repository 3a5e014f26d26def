"""`make fuzz`: the property tests at length, then atheris on every target. Findings are kept in .fuzz/<target>/, and end the run with status 1.

`--merge` takes what covers more than the corpus does into tests/fuzz/corpus, as far as there is room: smallest first. A finding is copied there by
hand, with a name that says what it was, once it is mended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.fuzz.tracing import Edge, traced

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/fuzz/corpus"
WORK = ROOT / ".fuzz"
PROPERTIES = "properties"
TARGET_BYTES = 16_000
"""Of the corpus of one target."""
SLICE_S = 60
"""A process runs so long, and its successor goes on with what it found: atheris loses some kilobytes wherever numpy's arrays are compared."""
_LIMITS = (
    "-max_len=65536",
    "-timeout=10",
    "-rss_limit_mb=2048",
    "-report_slow_units=5",
    "-print_final_stats=1",
    "-verbosity=1",
)


def main() -> int:
    """Run what is asked for, all by default; the exit status."""
    from tests.fuzz.targets import TARGETS

    names = [PROPERTIES, *TARGETS]
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz the decoders.")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default: 600)")
    parser.add_argument("--merge", action="store_true", help="take new inputs into tests/fuzz/corpus instead")
    chosen = parser.parse_args()
    if unknown := set(chosen.targets) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    try:
        import atheris  # noqa: F401 - whether it is there
    except ImportError:
        names = [PROPERTIES]
        print(
            "fuzz: atheris is not installed (scripts/setup.sh fuzz; it has wheels for x86_64 alone): property tests only",
            file=sys.stderr,
        )
    failed = []
    for name in chosen.targets or names[chosen.merge :]:
        run = _properties if name == PROPERTIES else _merged if chosen.merge else _fuzzed
        good = run(name, chosen.seconds)
        failed += [] if good else [name]
    for name in failed:
        where = (
            "see above"
            if name == PROPERTIES
            else f"see .fuzz/{name}/; again: .venv/bin/python -m tests.fuzz.one {name} .fuzz/{name}/crash-…"
        )
        print(f"fuzz: {name} failed, {where}", file=sys.stderr)
    return 1 if failed else 0


def _properties(_name: str, _seconds: int) -> bool:
    command = [sys.executable, "-m", "pytest", "tests/unit", "-q", "-m", "hypothesis"]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "fuzz"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def _fuzzed(name: str, seconds: int) -> bool:
    print(f"fuzz: {name}, {seconds} s", file=sys.stderr)
    found = _found(name)
    found.mkdir(parents=True, exist_ok=True)
    for begin in range(0, seconds, SLICE_S):
        slice_s = min(SLICE_S, seconds - begin)
        if not _atheris(name, f"-max_total_time={slice_s}", f"-artifact_prefix={WORK / name}/", found, CORPUS / name):
            return False
    return True


def _merged(name: str, _seconds: int) -> bool:
    from tests.fuzz.targets import TARGETS

    kept, room = CORPUS / name, TARGET_BYTES
    covered: set[Edge] = set()
    for folder in (kept, _found(name)):
        for path in sorted(folder.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            data = path.read_bytes()
            edges = traced(partial(TARGETS[name], data))[1]
            if folder == kept or (edges - covered and len(data) <= room):
                covered |= edges
                room -= len(data)
                if folder != kept:
                    shutil.copy(path, kept / path.name[:16])
    print(f"fuzz: {name}, {room} bytes left for more", file=sys.stderr)
    return True


def _found(name: str) -> Path:
    return WORK / name / "found"


def _atheris(name: str, *arguments: str | Path) -> bool:
    command = [sys.executable, "-m", "tests.fuzz.one", name, *_LIMITS, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
