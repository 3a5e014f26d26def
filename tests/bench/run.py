"""`make bench`: runs the benches, prints their tables, and says on what machine that was.

Not a test: nothing here fails because something is slow. What the figures mean is in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.bench.tables import Outcome

REPOSITORY: Final = Path(__file__).resolve().parents[2]
# Not this file's folder: it has an `encodings`, and so has the standard library.
sys.path[0] = str(REPOSITORY)

NAMES: Final = ("storm", "ring", "encodings", "idle", "system")
EXTRA: Final = ("packets", "capture", "profile", "broker", "scale", "cluster_latency")


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 130 if interrupted."""
    from tests.bench import machine

    options = _options(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    facts = machine.facts(["make", "bench", f'ARGS="{" ".join(sys.argv[1:] if argv is None else argv)}"'])
    for key, value in facts.items():
        print(f"{key}: {value}")
    print(flush=True)
    results = []
    try:
        for name in options.only or NAMES:
            outcome = _bench(name, options)()
            results.append(outcome.as_json())
            print(outcome.text(), flush=True)
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted; everything that was started has been ended\n")
        return 130
    finally:
        if options.output:
            options.output.write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run.py", description="Measures DaemonEye against other agents and against its targets."
    )
    parser.add_argument("--quick", action="store_true", help="one round and a tenth of the work: to see that it runs")
    parser.add_argument(
        "--only", nargs="+", choices=(*NAMES, *EXTRA), metavar="NAME", help=f"of {', '.join((*NAMES, *EXTRA))}"
    )
    parser.add_argument("--rounds", type=int, help="rounds of storm and ring (3, quick 1)")
    parser.add_argument("--scale", type=float, help="share of the full work (1, quick 0.1)")
    parser.add_argument(
        "--agents", nargs="+", default=[], metavar="NAME", help="of storm's agents, only these beside the baseline"
    )
    parser.add_argument("--falco", type=Path, metavar="PATH", help="the peer's binary")
    parser.add_argument("-o", "--output", "--json", type=Path, metavar="FILE", help="write the figures as JSON, too")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.scale = options.scale or (0.1 if options.quick else 1.0)
    return options


def _bench(name: str, options: argparse.Namespace) -> Callable[[], Outcome]:
    run = import_module(f"tests.bench.{name}").run
    arguments = {"rounds": options.rounds, "scale": options.scale}
    if name == "storm":
        peers = {"falco": options.falco} if options.falco else {}
        arguments |= {"peers": peers, "only": frozenset(options.agents)}
    return lambda: run(**arguments)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
