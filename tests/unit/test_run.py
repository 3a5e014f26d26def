"""`make test` is three calls of pytest: all run, and the last line and the exit status are of all."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.run import CROWDED, FOLDERS, KERNEL, MARKERS, MIXED

ROOT = Path(__file__).parents[2]
FINE = "def test_fine(): pass\n"
BAD = "def test_bad(): assert False\n"
ENDS = "import os\ndef test_ends(): os._exit(3)\n"
MARK = f"from pytest import mark\npytestmark = mark.{MARKERS[-1]}\n"


def run(tmp_path, shared, alone, *words):
    """Exit status, lines, and what the last one counts, of a tree with these two modules, and four of the kernel's that pass."""
    for folder in ("unit", MIXED, *FOLDERS):
        (tmp_path / "tests" / folder).mkdir(parents=True)
    for name in ("pyproject.toml", "tests/run.py", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests/unit/test_shared.py").write_text(shared)
    (tmp_path / f"tests/{MIXED}/test_alone.py").write_text(MARK + alone)
    (tmp_path / f"tests/{KERNEL}/test_kernel.py").write_text(FINE)
    for name in CROWDED:
        (tmp_path / f"tests/{KERNEL}/{name}").write_text(MARK + FINE)
    done = subprocess.run([sys.executable, "-m", "tests.run", *words], cwd=tmp_path, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return done.returncode, lines, lines[-1].strip("= ").partition(" in ")[0]


def test_a_first_call_that_fails_keeps_nothing_from_the_others_and_is_told_at_the_end(tmp_path):
    status, lines, last = run(tmp_path, BAD, FINE)
    assert (status, last) == (1, "1 failed, 5 passed")
    assert lines[-2] == "FAILED tests/unit/test_shared.py::test_bad"
    assert sum("slowest" in line for line in lines) == 3, "each says where its time went"


def test_a_last_call_that_does_not_come_to_its_end_is_a_failure(tmp_path):
    status, lines, last = run(tmp_path, FINE, ENDS)
    assert (status, last) == (1, "2 passed, 1 error")
    assert "ended with 3" in lines[-2]


def test_with_words_it_is_one_call_in_one_process(tmp_path):
    status, lines, last = run(tmp_path, FINE, BAD, "-k", "fine")
    assert (status, last) == (0, "5 passed, 1 deselected")
    assert not any(line.startswith("created: ") for line in lines), "no workers"


def test_the_crowded_ones_are_there():
    assert [name for name in CROWDED if not (ROOT / "tests" / KERNEL / name).is_file()] == []
