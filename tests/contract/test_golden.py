"""Golden batches: what sensors of every release wrote, as it is kept from each (scripts/golden_batches.py), reads as it was meant.

A failure here means that this release's analytics would refuse or misread what older sensors of a mixed cluster send, or what lies in the
stream and in spools from before the upgrade.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from daemoneye import envelope
from daemoneye.errors import CorruptData
from daemoneye.events.codec import section_of
from daemoneye.events.former import turned
from daemoneye.events.registry import READABLE, RECORDS
from daemoneye.events.schema import Field, Record
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.registry import build

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "testdata" / "golden"
BATCHES = sorted(GOLDEN.glob("*/*.batch"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_batches", REPOSITORY / "scripts" / "golden_batches.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", BATCHES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_golden_batch_decodes_to_the_recorded_values(path: Path, script: ModuleType) -> None:
    batch = envelope.decode(path.read_bytes())
    recorded = json.loads(path.with_suffix(".json").read_text())
    described = script.described(batch)
    assert described["envelope"] == recorded["envelope"]
    assert [(s["record"], s["context"]) for s in described["sections"]] == [
        (s["record"], s["context"]) for s in recorded["sections"]
    ]
    for now, then in zip(described["sections"], recorded["sections"], strict=True):
        for name, values in then["columns"].items():
            # Later releases may add columns; what was written stays what it was.
            assert now["columns"][name] == values, f"{now['record']}.{name}"


@pytest.mark.parametrize("path", BATCHES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_analytics_takes_a_golden_batch(path: Path) -> None:
    batch = envelope.decode(path.read_bytes())
    pipeline = Pipeline(build())
    pipeline.process(batch)
    assert pipeline.events == batch.envelope.rows
    assert {name: figures["last_error"] for name, figures in pipeline.status().items()} == dict.fromkeys(
        pipeline.status(), ""
    )


@pytest.mark.parametrize("release", sorted(GOLDEN.iterdir()), ids=lambda p: p.name)
def test_the_archived_schemas_are_those_of_the_batches(release: Path) -> None:
    archive = json.loads((release / "schemas.json").read_text())
    schemas = {name: Record.from_descriptor(descriptor) for name, descriptor in archive.items()}
    assert {name: record.hash for name, record in schemas.items()} == {name: name for name in archive}
    for path in release.glob("*.batch"):
        batch = envelope.decode(path.read_bytes(), schemas)
        assert {s.schema for s in batch.envelope.sections} <= set(archive)


def test_this_release_has_its_own(script: ModuleType) -> None:
    release = GOLDEN / importlib.metadata.version("daemoneye")
    assert release.is_dir(), "run scripts/golden_batches.py: a release keeps its golden batches"
    assert {path.stem for path in release.glob("*.batch")} == set(script.batches())
    assert {record.name for record in RECORDS} <= {path.stem for path in release.glob("*.batch")}


def test_every_schema_that_was_ever_kept_is_read() -> None:
    kept = {name for release in GOLDEN.iterdir() for name in json.loads((release / "schemas.json").read_text())}
    missing = kept - set(READABLE)
    assert not missing, (
        "add their descriptors to core/src/daemoneye/events/former.json: streams and spools hold such rows"
    )


def test_rows_of_another_schema_are_turned_by_field_id() -> None:
    """One field less, one more, one wider, strings in another order."""
    there = Record(90, "thing_done", "bulk", "", (Field(1, "a", "u32", ""), Field(2, "gone", "u32", ""), Field(3, "x", "heap16", "", text="string"),
                   Field(4, "y", "heap16", "", text="string"), Field(5, "pad", "u32", "")))  # fmt: skip
    here = Record(90, "thing_done", "bulk", "", (Field(1, "b", "u64", ""), Field(4, "y", "heap16", "", text="string"),
                  Field(6, "new", "heap16", "", text="string"),
                  Field(5, "pad", "u32", ""), Field(3, "x", "heap16", "", text="string"), Field(7, "p", "u16", ""), Field(8, "q", "u32", "")))  # fmt: skip
    section = section_of(
        there, {"a": [1, 2], "gone": [7, 8], "x": [b"left", b""], "y": [b"right", b"r"], "pad": [3, 4]}, 2
    )
    got = turned(section, here)
    assert got.record is here
    assert got.rows["b"].tolist() == [1, 2]
    assert got.rows["q"].tolist() == [0, 0]
    assert [got.values(name) for name in ("x", "y", "new")] == [[b"left", b""], [b"right", b"r"], [b"", b""]]
    with pytest.raises(CorruptData, match=r"thing_done\.a \(field 1\) is u64 there and u32 here"):
        turned(got, there)
