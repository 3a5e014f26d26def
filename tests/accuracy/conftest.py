"""What crossed a wire between real clients and servers, as the product read it and as tshark did. Needs root, like the kernel's tests."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import COMMAND

ROOT = Path(__file__).parents[2]
_TOOLS = ("tshark", "tcpdump", "dig", "dnsmasq", "curl", "openssl", "gnutls-cli", "prometheus", "promtool", "ip", "ss")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs root."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with what was captured."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    assert not missing, f"scripts/setup.sh tests installs what is missing: {missing}"
    directory = tmp_path_factory.mktemp("accuracy")
    # Whoever writes something to remember writes it there.
    environment = {
        **os.environ,
        "HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
        "XDG_CACHE_HOME": str(directory),
    }
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "tests.accuracy.record", directory], cwd=ROOT,
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return directory


@pytest.fixture(scope="session")
def wire(made: Path) -> Path:
    """The capture."""
    return made / "wire.pcap"


@pytest.fixture(scope="session")
def lines(made: Path, wire: Path) -> list[dict[str, Any]]:
    """What the product says of it."""
    done = subprocess.run(
        [COMMAND, "run", "--pcap", wire, "-o", "json", "--events", "--state", made / "state"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def ours(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Its events by name, in order of time; times as nanoseconds since 1970."""
    events: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "event":
            times: dict[str, Any] = {name: nanoseconds(line[name]) for name in ("time", "begin_time") if name in line}
            events.setdefault(line["event"], []).append({**line, **times})
    for rows in events.values():
        rows.sort(key=lambda row: row["time"])
    return events


def nanoseconds(text: str) -> int:
    """Since 1970."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return int(dt.datetime.fromisoformat(seconds).replace(tzinfo=dt.UTC).timestamp()) * 10**9 + int(
        fraction.ljust(9, "0")
    )
