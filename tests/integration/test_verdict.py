"""`kubectl daemoneye verdict` on a real API server, with the rights of whoever says it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from daemoneye_operator import resources
from daemoneye_operator.kube import path_of
from daemoneye_operator.reconcile.exception import Silence
from tests.chart.chart import ROOT
from tests.cluster.harness import binaries
from tests.support import apiserver
from tests.support.apiserver import ApiServer
from tests.unit.cli.fakekubectl import finding

pytestmark = pytest.mark.integration

_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_GROUP: Final = "daemoneye.io"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with our kinds, a namespace with a finding, somebody who may say a verdict and somebody who may only look."""
    with apiserver.serving(tmp_path_factory.mktemp("api")) as api:
        for name in ("findings", "detectionexceptions"):
            crd = yaml.safe_load((ROOT / "crds" / f"daemoneye.io_{name}.yaml").read_text())
            api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        api.namespace("shop", "judge", "reader")
        look = {"apiGroups": [_GROUP], "resources": ["findings", "detectionexceptions"], "verbs": ["get", "list"]}
        write = {"apiGroups": [_GROUP], "resources": ["detectionexceptions"], "verbs": ["create", "patch"]}
        for account, rules in (("judge", [look, write]), ("reader", [look])):
            api.create(path_of(_RBAC, "clusterroles"), {"metadata": {"name": account}, "rules": rules})
            subject = {"kind": "ServiceAccount", "name": account, "namespace": "shop"}
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account}
            binding = {"metadata": {"name": account}, "subjects": [subject], "roleRef": role}
            api.create(path_of(_RBAC, "clusterrolebindings"), binding)
        yield api


def told(server: ApiServer, tmp_path: Path, account: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, what the command printed, and what it said of trouble."""
    config = tmp_path / f"{account}.kubeconfig"
    server.kubeconfig(config, "shop", account)
    path = (str(binaries.tool("kubectl").parent), str(Path(sys.executable).parent), os.environ["PATH"])
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "KUBECONFIG": str(config),
        "KUBECACHEDIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        ["kubectl", "daemoneye", "verdict", *arguments], env=environment, capture_output=True, text=True, timeout=180
    )
    return done.returncode, done.stdout, done.stderr


def exceptions(server: ApiServer) -> list[dict[str, Any]]:
    found = server.get(resources.ours("detectionexceptions", namespace="shop"))
    assert found
    return list(found["items"])


def test_a_verdict_is_an_exception_that_covers_its_finding(server: ApiServer, tmp_path: Path) -> None:
    shown = finding("tls-1")
    made = server.create(resources.ours("findings", namespace="shop"), shown)
    name = made["metadata"]["name"]
    status, out, err = told(server, tmp_path, "judge", f"shop/{name}", "benign", "--until", "30d", "--dry-run")
    assert status == 0, err
    assert exceptions(server) == []
    status, _, err = told(server, tmp_path, "reader", f"shop/{name}", "benign")
    assert status != 0
    assert "forbidden" in err.lower()
    for reason in ("a first look", "a deploy"):  # the second time it is the same object
        status, out, err = told(server, tmp_path, "judge", f"shop/{name}", "benign", "--reason", reason)
        assert status == 0, err
    (written,) = exceptions(server)
    assert written["metadata"]["name"] in out
    assert (written["spec"]["verdict"], written["spec"]["reason"]) == ("Benign", "a deploy")
    assert "judge" in written["spec"]["owner"]
    assert Silence.of(written).matches(made["spec"])


def test_what_cannot_be_is_one_sentence(server: ApiServer, tmp_path: Path) -> None:
    status, _, err = told(server, tmp_path, "judge", "shop/none", "benign")
    assert status != 0
    assert "none" in err
    status, _, err = told(server, tmp_path, "judge", "shop/none", "benign", "--until", "2020-01-31")
    assert status == 2
    assert "2020-01-31" in err
