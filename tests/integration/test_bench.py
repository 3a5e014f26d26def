"""The benches run and give the figures they promise; how large those are is no test's affair."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.slow]


def bench(tmp_path, *arguments):
    result = tmp_path / "result.json"
    command = [
        sys.executable,
        "tests/bench/run.py",
        "--quick",
        "--scale",
        "0.02",
        "-o",
        str(result),
        "--only",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    parsed = json.loads(result.read_text())
    assert {"machine", "system", "load at the start", "command"} <= parsed["facts"].keys()
    (outcome,) = parsed["results"]
    assert f"## {outcome['bench']}" in done.stdout
    return outcome


def test_ring_counts_every_record_stored_or_lost(tmp_path):
    data = bench(tmp_path, "ring")["data"]
    overflow = data.pop("overflow")
    assert overflow["stored"] > 0
    assert overflow["offered"] == overflow["stored"] + overflow["reported"]
    assert overflow["reported"] == overflow["dropped"] > 0
    assert len(data) == 2
    for figures in data.values():
        assert {"records", "execs", "offered", "broker", "size", "batch", "rss"} == figures.keys()
        assert figures["records"]["median"] >= figures["execs"]["median"] > 0


@pytest.mark.kernel
def test_encodings_are_compared_on_recorded_events(tmp_path):
    outcome = bench(tmp_path, "encodings")
    assert outcome["data"].keys() == {"storm", "varied", "mixed"}
    for corpus in outcome["data"].values():
        assert corpus["events"] > 0
        for name in ("shuffled columns, zstd 1 (ours)", "structured records, zstd 1", "Arrow IPC, zstd 1"):
            assert {"bytes", "encode_us", "decode_us"} == corpus[name].keys()
            assert corpus[name]["bytes"]["median"] > 0


def test_packets_are_inspected_and_compared(tmp_path):
    outcome = bench(tmp_path, "packets")
    assert outcome["data"].keys() == {"share 0.0", "share 0.01", "share 0.055", "parsers"}
    assert all(rate > 0 for figures in outcome["data"].values() for rates in figures.values() for rate in rates)


def pins():
    """Pinned objects of benches; the folder goes with the last of anybody's."""
    return {path.name for path in Path("/sys/fs/bpf/daemoneye").glob("bench-*")}


@pytest.mark.kernel
def test_storm_finds_every_execution_that_it_made(tmp_path):
    left = pins()
    outcome = bench(tmp_path, "storm", "--agents", "daemoneye")
    seen, made = outcome["data"]["daemoneye"]["captured"].split("/")
    assert seen == made
    assert outcome["data"]["daemoneye"]["lost"] == 0
    assert outcome["data"]["daemoneye"]["bpf_us_per_exec"]["median"] > 0
    assert not pins() - left
