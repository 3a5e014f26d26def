"""From the release before to this one and back, under load, with sensors of each beside the rest of the other: nothing is lost that is not counted.

The release before is the commit before, or what DAEMONEYE_FORMER names (a tag, say). One installation and one generator for all tests of this
module, which go on where the one before ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from daemoneye.events.registry import RECORDS
from tests.cluster.cli import Cli
from tests.cluster.harness.cluster import NODE
from tests.cluster.load import COMMAND, all_there_once, nothing_lost
from tests.cluster.oracle import Oracle
from tests.cluster.release import COMPONENTS, IMAGES, PINS, REPOSITORY, Release, build_images, revision, wait

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

FORMER: Final = os.environ.get("DAEMONEYE_FORMER", "HEAD^")
BEFORE: Final = "before"
NOW: Final = "dev"
"""Tags of the two releases' images."""
SHOP: Final = "upgrade"
UPGRADES: Final = 2
"""How often the node gets a sensor of the other release."""
NEW_PODS: Final = ("operator.podAnnotations.upgraded=yes", "nats.podAnnotations.upgraded=yes")
"""The broker is started anew, too, whatever changed."""


@pytest.fixture(scope="module")
def former(prepared: Release, images: frozenset[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tree of the release before, its images on the node; without any history this tree's, under another tag."""
    prepared.fresh()
    with revision(FORMER, tmp_path_factory.mktemp("former")) as tree:
        assert tree is not None or "DAEMONEYE_FORMER" not in os.environ, f"{FORMER} has no chart"
        load, tag = prepared.cluster.load_image, prepared.cluster.tag_image
        for name in IMAGES:
            tag(f"daemoneye/{name}:{NOW}", "aside")
        for archive in build_images(tree=tree or REPOSITORY):
            if archive not in images:  # another one of this name, whose tag it takes
                load(archive)
        for name in IMAGES:
            tag(f"daemoneye/{name}:{NOW}", BEFORE)
            tag(f"daemoneye/{name}:aside", NOW)
        yield tree or REPOSITORY


@pytest.fixture(scope="module")
def release(prepared: Release, former: Path) -> Release:
    """The release before, and a policy."""
    prepared.install(f"image.tag={BEFORE}", chart=former / "charts" / "daemoneye")
    prepared.policy("default")
    prepared.wait_ready("default")
    return prepared


@pytest.fixture(scope="module")
def busy(release: Release) -> Iterator[dict[str, Any]]:
    """A pod that executes something every few milliseconds, as long as the module lasts."""
    with release.namespace_of_tests(SHOP), release.pod("busy", SHOP, *COMMAND) as pod:
        yield pod


@pytest.fixture(scope="module")
def oracle(release: Release, busy: dict[str, Any]) -> Oracle:
    return Oracle(release)


@pytest.fixture(scope="module")
def kept(release: Release, oracle: Oracle) -> dict[str, Any]:
    """A Finding of the release before."""
    found = judged(release, "kept")
    oracle.settle()
    return found


def test_former_sensors_beside_the_rest_of_this_release(release: Release, former: Path, oracle: Oracle, kept: Any):
    release.upgrade(f"image.tag={NOW}", f"sensor.image.tag={BEFORE}", *NEW_PODS)
    runs(release, rest=NOW, sensor=BEFORE)
    judged(release, "former-sensor")
    oracle.settle()
    nothing_lost(oracle)
    said = release.cluster.kubectl("logs", f"deployment/{release.name}-analytics", "-n", release.namespace)
    assert "(checkpoint " in said, "it goes on where the former analytics ended"
    # Whoever looks sees both.
    cli = Cli(release.cluster)
    _, (said_of,) = cli.lines("version")
    tags = {name: str(image).rpartition(":")[2] for name, image in said_of["cluster"].items()}
    assert (tags["operator"], tags["analytics"], tags["sensors"]) == (NOW, NOW, BEFORE)
    status, costs = cli.lines("top")
    assert status == 0
    versions = {line["component"]: line["version"] for line in costs}
    assert (versions["analytics"], versions["sensor"]) == (_version(REPOSITORY), _version(former))


def test_then_this_release_wholly(release: Release, oracle: Oracle, kept: Any):
    before = oracle.look()
    release.upgrade("sensor.image.tag=")
    runs(release, rest=NOW, sensor=NOW)
    judged(release, "this-release")
    oracle.settle()
    nothing_lost(oracle)
    assert oracle.missing(before.epoch, before.produced) == []
    wait("the former rings taken over, or read out and removed", one_set_of_pins, 90)
    assert _uids(release, "kept") == [kept["metadata"]["uid"]]
    assert Cli(release.cluster).execs(SHOP, "kept"), "events of before the upgrade"


def test_back_to_the_former_rest_beside_this_releases_sensors(release: Release, former: Path, oracle: Oracle):
    _same_records(former)
    release.upgrade(f"image.tag={BEFORE}", f"sensor.image.tag={NOW}", chart=former / "charts" / "daemoneye")
    runs(release, rest=BEFORE, sensor=NOW)
    judged(release, "this-sensor")
    oracle.settle()
    nothing_lost(oracle)


def test_back_to_the_former_release_wholly(release: Release, former: Path, oracle: Oracle, kept: Any):
    _same_records(former)
    before = oracle.look()
    release.roll_back(1)
    runs(release, rest=BEFORE, sensor=BEFORE)
    judged(release, "former-release")
    oracle.settle()
    nothing_lost(oracle, UPGRADES)
    assert oracle.missing(before.epoch, before.produced) == []
    wait("this release's rings taken over, or read out and removed", one_set_of_pins, 90)
    assert _uids(release, "kept") == [kept["metadata"]["uid"]]


def test_every_execution_of_the_whole_module_is_there_once(release: Release, oracle: Oracle, busy: dict[str, Any]):
    all_there_once(release, oracle, busy, UPGRADES)
    # Of every operator that was: the status tells new counts once a minute, and when its operator ends.
    wait("every Finding counted", lambda: _counted(release) >= len(release.findings(SHOP)) >= 3, 90)


# ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def runs(release: Release, *, rest: str, sensor: str) -> None:
    """Wait until exactly these images run; none of them was started twice, and the policy is Ready."""
    wanted = {**{name: {rest} for name in COMPONENTS}, "sensor": {sensor}}
    wait(f"{wanted}", lambda: _tags(release) == wanted)
    release.wait_ready("default")
    pods = release.items("pods", release.namespace)
    again = {p["metadata"]["name"]: c for p in pods if (c := p["status"]["containerStatuses"][0])["restartCount"]}
    assert not again


def judged(release: Release, name: str) -> dict[str, Any]:
    """The Finding of what a pod does now, which tells it in words."""

    def found() -> dict[str, Any]:
        return next((f for f in release.findings(SHOP, pod=name) if "memfd" in f["spec"]["title"]), {})

    with release.pod(name, SHOP, "fileless"):
        finding = wait(f"Finding of {name}", found, 90)
    spec = finding["spec"]
    assert spec["subject"]["exe"] in spec["title"]
    assert any("from memory" in line for line in spec["explanation"])
    assert (spec["subject"]["namespace"], spec["subject"]["container"]) == (SHOP, "main")
    assert (spec["subject"]["node"], spec["policies"]) == (NODE, ["default"])
    return finding


def one_set_of_pins() -> bool:
    """Whether the node's programs are pinned once."""
    return len(list(PINS.glob("daemoneye*/*"))) == 1


def _tags(release: Release) -> dict[str, set[str]]:
    """Component → tags of the images that its pods run, all of which are ready."""
    found: dict[str, set[str]] = {}
    for pod in release.items("pods", release.namespace):
        assert all(container["ready"] for container in pod["status"]["containerStatuses"])
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        found.setdefault(component, set()).add(pod["spec"]["containers"][0]["image"].rpartition(":")[2])
    return found


def _uids(release: Release, pod: str) -> list[str]:
    return [f["metadata"]["uid"] for f in release.findings(SHOP, pod=pod) if "memfd" in f["spec"]["title"]]


def _counted(release: Release) -> int:
    """Findings by the policy's status."""
    return int(release.cluster.get("daemoneyepolicy", "default")["status"]["findings"]["total"])


def _version(tree: Path) -> str:
    return str(tomllib.loads((tree / "core" / "pyproject.toml").read_text())["project"]["version"])


def _same_records(former: Path) -> None:
    """Skip where the release before cannot read what this one's sensors write: docs/upgrade.md says so, too."""
    code = "import json; from daemoneye.events.registry import RECORDS; print(json.dumps({r.name: r.hash for r in RECORDS}))"
    env = {**os.environ, "PYTHONPATH": str(former / "core" / "src")}
    theirs = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env).stdout)
    written = [record for record in RECORDS if record.in_kernel or record.lane in {"context", "loss"}]
    if new := [record.name for record in written if theirs.get(record.name) != record.hash]:
        pytest.skip(f"the release before cannot read this one's records {', '.join(new)}")
