"""Builds the exec storm, once a session."""

from __future__ import annotations

import subprocess
from pathlib import Path


def build(directory: Path) -> Path:
    """The program `storm COUNT [RATE]`, statically linked so that an exec costs little of its own."""
    program = directory / "storm"
    if not program.exists():
        subprocess.run(["cc", "-O2", "-static", "-o", program, Path(__file__).with_name("storm.c")], check=True)
    return program
