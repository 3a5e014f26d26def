"""Settings for every test: hypothesis profiles, the rule for tests that need root, and what a run says at its end.

Fixtures live in tests/<folder>/conftest.py.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.run import TALLY

# The machines that run this are shared: a slow example is no finding, so there is no deadline.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# This call's alone: a test that runs pytest hands its environment on.
_TALLY = os.environ.pop(TALLY, "")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip kernel tests for ordinary users only: as root, a kernel or package that is missing is a failure."""
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("needs root: make test runs as root where it can")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went: by folder, and the ten slowest modules. And the tally for tests/run.py."""
    if _TALLY:
        Path(_TALLY).write_text(json.dumps(_tally(terminalreporter)))
    folders, modules = Counter[str](), Counter[str]()
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "duration")]
    for report in reports:
        module = report.nodeid.partition("::")[0]
        folders["/".join(module.split("/")[:2])] += report.duration
        modules[module] += report.duration
    if len(modules) > 1:
        terminalreporter.section("time by folder and module")
        for name, seconds in (*folders.most_common(), *modules.most_common(10)):
            terminalreporter.write_line(f"{seconds:7.1f}s {name}")


def _tally(terminalreporter: pytest.TerminalReporter) -> dict[str, object]:
    """Numbers of tests by outcome, and a line for each that is bad."""
    stats = {name: found for name, found in terminalreporter.stats.items() if name}
    bad = [f"{name.upper()} {report.nodeid}" for name in ("failed", "error") for report in stats.get(name, ())]
    return {"counts": {name: len(found) for name, found in stats.items()}, "bad": bad}
