"""What declarations promise to others: generated files are fresh, ids never change, every event has a program."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from daemoneye.codegen.__main__ import FILES, main
from daemoneye.events.registry import EVENTS, RECORDS
from daemoneye_sensor.programs import SOCKET_PROGRAMS

REPOSITORY = Path(__file__).parents[2]
ARCHIVE = Path(__file__).with_name("schemas.json")


def test_generated_files_are_fresh() -> None:
    assert main(["--check", str(REPOSITORY)]) == 0, "run `make generate`"


@pytest.mark.parametrize("name", FILES)
def test_a_stale_file_fails(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    (tmp_path / name).write_text("edited by hand")
    assert main(["--check", str(tmp_path)]) == 1
    assert f"{name}: stale" in capsys.readouterr().err


def test_ids_are_append_only() -> None:
    """The archive holds every field that was ever released. A new field or record is added to it; nothing in it changes."""
    archive = json.loads(ARCHIVE.read_text())
    declared: dict[str, Any] = {
        r.name: {"id": r.id, "fields": {f.name: [f.id, f.type] for f in r.fields}} for r in RECORDS
    }
    for name, record in archive.items():
        assert name in declared, f"record {name} was released and is gone"
        assert declared[name]["id"] == record["id"]
        for field, what in record["fields"].items():
            assert declared[name]["fields"].get(field) == what, f"{name}.{field} was released as {what}"
    assert declared == archive, f"add what is new to {ARCHIVE.name}:\n{json.dumps(declared, indent=1)}"


def test_every_kernel_event_has_its_program_and_nothing_else_is_there() -> None:
    programs = {path.name.removesuffix(".bpf.c") for path in (REPOSITORY / "bpf/programs").glob("*.bpf.c")}
    others = {"cgroup_announce", "process_snapshot", "packets", "xdp", *SOCKET_PROGRAMS}
    assert programs == {r.name for r in EVENTS.values() if r.tracepoint} | others


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.name)
def test_every_field_says_what_it_is(record: object) -> None:
    for field in record.fields:  # type: ignore[attr-defined]
        assert field.doc.endswith("."), f"{field.name} has no sentence"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", field.name)
        if field.name == "time" or field.name.endswith("_time"):
            assert field.unit == "ns"


def test_every_source_file_of_the_kernel_names_its_licence() -> None:
    for path in [*(REPOSITORY / "bpf").rglob("*.c"), *(REPOSITORY / "bpf").rglob("*.h")]:
        assert path.read_text().startswith("/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */"), path
