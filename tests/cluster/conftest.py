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
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    wait("discovery", lambda: "daemoneyepolicies" in cluster.kubectl("api-resources", "--api-group=daemoneye.io"))
    yield cluster
    cluster.kubectl("delete", *names, "--wait=true", "--timeout=60s")


@pytest.fixture(scope="module")
def prepared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Everything that `helm install` needs: images of the Dockerfiles, a namespace, a volume. Afterwards nothing of the release is left."""
    for archive in build_images():
        cluster.load_image(archive)
    cluster.load_image(victim_image(tmp_path_factory.mktemp("victim")))
    installed = Release(cluster)
    installed.prepare()
    installed.volume()
    yield installed
    # A module whose last tests uninstall leaves only what a failed one left.
    cluster.helm("uninstall", installed.name, "--namespace", installed.namespace, "--wait", check=False)
    for kind in ("daemoneyepolicies", "findings", "detectionexceptions", "federationpeers"):
        cluster.kubectl("delete", "crd", f"{kind}.daemoneye.io", "--ignore-not-found", "--timeout=60s", check=False)
    cluster.kubectl("delete", "namespace", installed.namespace, "--ignore-not-found", "--timeout=90s", check=False)
    cluster.kubectl("delete", "pv", "broker", "--ignore-not-found", check=False)


@pytest.fixture(scope="module")
def release(prepared: Release) -> Release:
    """The chart, installed as docs/install.md says; once for the tests of a module."""
    prepared.install()
    return prepared


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
