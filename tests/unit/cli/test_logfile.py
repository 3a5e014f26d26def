"""Log lines and the file that holds them."""

import pytest

from daemoneye_cli.logfile import LogFile, LogLine


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        (b'{"level": "ERROR", "message": "broken \\u001b[31m"}', "error", "broken \\x1b[31m"),
        (b'{"level": "warning", "msg": "hm"}', "warning", "hm"),
        (b'{"level": "info", "event": "x"}', "info", "x"),
        (b'{"no": "level"}', "info", '{"no": "level"}'),
        (b"{broken", "info", "{broken"),
        (b"ERROR daemoneye_sensor.x it broke", "error", "ERROR daemoneye_sensor.x it broke"),
        (b"2026-01-01 12:00:00,123 WARNING slow", "warning", "2026-01-01 12:00:00,123 WARNING slow"),
        (b"[ERR] x", "error", "[ERR] x"),
        (b"errors happen", "info", "errors happen"),
        (b"daemoneye-sensor: no BTF (fix: y)", "fatal", "no BTF (fix: y)"),
        (b"\xff\x1b]0;x\x07", "info", "\\xff\\x1b]0;x\\x07"),
        (b"{" * 50_000, "info", "{" * 50_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_is_understood_and_made_safe(raw, level, text):
    line = LogLine.parse("sensor", raw)
    assert (line.level, line.text) == (level, text)
    assert line.matters is (level in {"warning", "error"})


def test_two_files_are_kept_at_most(tmp_path):
    log = LogFile(tmp_path / "x.log", max_bytes=100)
    for number in range(100):
        log.write(b"line %03d" % number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "x.log").read_bytes().endswith(b"line 099\n")
    assert (tmp_path / "x.log").stat().st_mode & 0o777 == 0o600


def test_a_full_file_of_before_is_rotated_and_another_is_appended_to(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(b"a" * 200)
    log = LogFile(path, max_bytes=100)
    log.write(b"new")
    log.close()
    again = LogFile(path, max_bytes=100)
    again.write(b"more")
    again.close()
    assert path.read_bytes() == b"new\nmore\n"


def test_a_directory_that_has_gone_loses_lines_only(tmp_path):
    log = LogFile(tmp_path / "gone" / "x.log")
    log.write(b"lost")
    log.close()
