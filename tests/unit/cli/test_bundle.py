"""The archive: bounded, private, whole or not there, with a manifest that tells what is missing."""

import json
import resource
import tarfile
from pathlib import Path
from typing import Any

import pytest

from daemoneye.errors import ConfigError, MachineError
from daemoneye_cli.bundle import Bundle, without_arguments
from daemoneye_cli.redact import MARK, Redactor


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive:
            folder, _, name = member.name.partition("/")
            assert folder == path.name.removesuffix(".tar.gz")
            assert (member.mode, member.uid) == (0o600, 0)
            file = archive.extractfile(member)
            assert file is not None
            found[name] = file.read()
    return found


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(contents(path)["manifest.json"])
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bug.tar.gz"


def bundle(path: Path, **options: Any) -> Bundle:
    return Bundle(path, Redactor(), **options)


def test_entries_and_manifest(path):
    with bundle(path) as made:
        made.document("a/one.json", {"password": "hunter2", "node": "node-1"})
        made.lines("b/many.jsonl", [{"n": 1}, {"n": 2}])
        made.text("c.log", "token=hunter2\nfine\n")
        made.close(of="a test")
    assert path.stat().st_mode & 0o777 == 0o600
    found = contents(path)
    assert json.loads(found["a/one.json"]) == {"password": MARK, "node": "node-1"}
    assert found["b/many.jsonl"] == b'{"n":1}\n{"n":2}\n'
    assert found["c.log"] == f"token={MARK}\nfine\n".encode()
    told = manifest(path)
    assert told["of"] == "a test"
    assert told["entries"] == [
        {"name": "a/one.json", "bytes": len(found["a/one.json"]), "redactions": 1},
        {"name": "b/many.jsonl", "bytes": 16, "redactions": 0},
        {"name": "c.log", "bytes": len(found["c.log"]), "redactions": 1},
    ]
    assert told["bytes"] == sum(entry["bytes"] for entry in told["entries"])
    assert told["missing"] == []


def fail(error: Exception) -> None:
    raise error


def test_a_part_that_fails_is_noted_and_the_others_go_on(path):
    with bundle(path) as made:
        with made.part("first"):
            fail(MachineError("who came with password=hunter2 may not", fix="ask"))
        with made.part("second"):
            fail(KeyError("metadata"))
        made.text("third", "here")
        made.close()
    assert manifest(path)["missing"] == [
        {"what": "first", "why": f"who came with password={MARK} may not (fix: ask)"},
        {"what": "second", "why": "KeyError: 'metadata'"},
    ]
    assert contents(path)["third"] == b"here"


def test_of_a_log_the_newest_lines_are_kept_and_of_a_list_the_first(path):
    with bundle(path, max_total=(1 << 20) + 1000) as made:
        made.text("log", "".join(f"line {number}\n" for number in range(100)), limit=100, newest=True)
        made.lines("list", ({"number": number} for number in range(1000)))
        made.text("late", "no room for this " * 10)
        made.document("later", {"nor": "for this" * 10})
        assert made.size <= 1000
        made.close()
    found, told = contents(path), manifest(path)
    assert found["log"].startswith(b"line ")
    assert found["log"].endswith(b"line 99\n")
    assert len(found["log"]) <= 100
    lines = [json.loads(line) for line in found["list"].splitlines()]
    assert lines == [{"number": number} for number in range(len(lines))]
    cuts = {entry["name"]: entry["cut"] for entry in told["entries"] if "cut" in entry}
    assert cuts["log"] == "the last 100 of 790 bytes"
    assert cuts["list"] == f"{1000 - len(lines):,} more had no room"
    assert "later" in {gap["what"] for gap in told["missing"]}


def test_a_full_archive_takes_nothing_more_and_says_so(path):
    with bundle(path, max_total=(1 << 20) + 10) as made:
        made.text("first", "x" * 100)
        assert made.full
        made.text("second", "y")
        made.lines("third", [1])
        made.close()
    assert set(contents(path)) == {"first", "manifest.json"}
    assert [gap["what"] for gap in manifest(path)["missing"]] == ["second", "third"]


def test_names_stay_within_the_archive(path):
    with bundle(path) as made:
        made.text("logs/../../etc/passwd", "x")
        made.text("/absolute", "x")
        made.text("logs/pod\x1b[31m.log", "x")
        made.close()
    assert all(not name.startswith("/") and ".." not in name and "\x1b" not in name for name in contents(path))


def test_a_file_that_is_there_is_not_touched(path):
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already: name another with --output"), bundle(path):
        pass
    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there(tmp_path):
    with (
        pytest.raises(ConfigError, match="cannot be written: No such file or directory"),
        bundle(tmp_path / "no" / "x.tar.gz"),
    ):
        pass


def test_a_failure_leaves_no_file(path):
    def fail() -> None:
        with bundle(path) as made:
            made.text("a", "b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not path.exists()


def test_a_disk_that_is_full_ends_it_with_one_message(path):
    noise = "".join(f"{number * 2654435761 % 2**32:x}" for number in range(100_000))

    def fill() -> None:
        with bundle(path) as made:
            for number in range(10):
                with made.part("outer"), made.part("inner"):
                    made.text(f"noise-{number}", noise)
            made.close()

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    try:
        with pytest.raises(MachineError, match="cannot be written: File too large"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()


def test_findings_without_arguments():
    finding: dict[str, Any] = {
        "spec": {
            "title": "tool was run with s3cr3t",
            "severity": "high",
            "subject": {"exe": "/bin/tool", "argv": ["tool", "s3cr3t", "high"]},
            "explanation": ["tool has s3cr3t as its argument."],
            "processTree": [{"pid": 1, "argv": ["init"]}, {"pid": 2, "argv": []}],
        }
    }
    bare = without_arguments(finding)
    assert "s3cr3t" not in json.dumps(bare)
    assert bare["spec"]["severity"] == "high"
    assert bare["spec"]["title"] == "tool was run with …"
    assert bare["spec"]["subject"]["exe"] == "/bin/tool"
    assert bare["spec"]["processTree"][1]["argv"] == []
    assert finding["spec"]["subject"]["argv"] == ["tool", "s3cr3t", "high"], "the original stays"
