"""The test cluster, once a run, and the chart installed on it.

DAEMONEYE_CLUSTER=keep leaves it running for the next run (developers); `make cluster-down` ends it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from daemoneye.codegen import crd
from tests.cluster.harness import leftovers
from tests.cluster.harness.cluster import NODE, Cluster, CommandError
from tests.cluster.release import Release, build_images, victim_image, wait

CRDS = Path(__file__).parents[2] / "crds"
INSTALLATION = pytest.StashKey[Release]()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster that is up; afterwards nothing of it is left, which is checked."""
    if os.geteuid() != 0:
        pytest.skip("needs root: make test runs as root where it can")
    cluster = Cluster()
    keep = os.environ.get("DAEMONEYE_CLUSTER") == "keep"
    if not (keep and cluster.processes.running("kubelet")):
        cluster.down()
        before = leftovers.snapshot()
        cluster.up()
    else:
        before = {}
    yield cluster
    if keep:
        return
    cluster.down()
    after = leftovers.snapshot()
    left = {kind: found for kind in before if (found := [x for x in after[kind] if x not in before[kind]])}
    gone = {kind: lost for kind in before if (lost := [x for x in before[kind] if x not in after[kind]])}
    assert not left, f"the test cluster left on this machine: {left}"
    assert not gone, f"the test cluster took from this machine: {gone}"


@pytest.fixture(scope="module")
def crds(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that knows our kinds, without the chart; afterwards it knows them no more, for the chart brings its own."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    names = [f"crd/{kind.plural}.daemoneye.io" for kind in crd.KINDS]
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=90s")
    wait("discovery", lambda: "daemoneyepolicies" in cluster.kubectl("api-resources", "--api-group=daemoneye.io"))
    yield cluster
    cluster.kubectl("delete", *names, "--wait=true", "--timeout=180s")


@pytest.fixture(scope="session")
def images(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> frozenset[Path]:
    """Archives of the images of the Dockerfiles, which are on the node now: importing them takes half a minute, once a run. So is what test pods run."""
    archives = frozenset(build_images())
    for archive in archives:
        cluster.load_image(archive)
    cluster.load_image(victim_image(tmp_path_factory.mktemp("victim")))
    return archives


@pytest.fixture(scope="session")
def prepared(cluster: Cluster, images: frozenset[Path], pytestconfig: pytest.Config) -> Iterator[Release]:
    """Where the chart can be installed. Nothing of it is left after the last test that asks for this."""
    made = pytestconfig.stash[INSTALLATION] = Release(cluster)
    yield made
    if made.there:  # the run was broken off
        made.remove()


@pytest.fixture(scope="module")
def release(prepared: Release) -> Iterator[Release]:
    """The chart, installed as docs/install.md says. Modules share the installation; each finds it with the tests' values and without any policy."""
    if not prepared.there:
        prepared.fresh()
    prepared.install()
    yield prepared
    prepared.idle()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs the chart installed comes after those who need a cluster without it, for they share one installation."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    ordered = iter(sorted(ours, key=_installed))
    here = set(map(id, ours))
    items[:] = [next(ordered) if id(item) in here else item for item in items]


def _installed(item: pytest.Item | None) -> bool:
    """Whether a test needs the chart installed."""
    return "prepared" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """The installation goes with the last test that needs it: others want the kernel for themselves."""
    yield
    if _installed(item) and not _installed(nextitem) and (made := item.config.stash.get(INSTALLATION, None)):
        made.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the cluster says."""
    report = yield
    if report.failed and report.when != "teardown" and (cluster := getattr(item, "funcargs", {}).get("cluster")):
        said = [
            cluster.kubectl("get", "pods", "--all-namespaces", "--output=wide", check=False),
            cluster.kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp", check=False)[-3000:],
            cluster.kubectl("describe", "node", NODE, check=False)[-1500:],
        ]
        report.sections.append(("cluster", "\n".join(said)))
    return report


__all__ = ["CommandError", "cluster"]
