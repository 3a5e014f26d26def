"""One target under atheris: `python -m tests.fuzz.one TARGET [libFuzzer's options, corpus folders, or files to run once]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(
    include=["daemoneye_sensor.l7", "daemoneye_sensor.packets", "daemoneye_sensor.sources.capturefile"]
):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
