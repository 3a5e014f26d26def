"""A cluster for the command line: a kubectl that answers from files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.cli.fakekubectl import (
    Kubectl,
    definition,
    finding,
    namespace,
    node,
    part,
    parts,
    policy,
    told,
)


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    """A kubectl that knows nothing yet, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return Kubectl(folder)


@pytest.fixture
def installed(kubectl: Kubectl) -> Kubectl:
    """A cluster in which everything is ready: two nodes, one policy, one finding."""
    crds = ("daemoneyepolicies", "detectionexceptions", "federationpeers", "findings")
    kubectl.gives("version -o json", {"clientVersion": {}, "serverVersion": {"gitVersion": "v1.34.4"}})
    kubectl.lists("get customresourcedefinitions*", *(definition(name) for name in crds))
    kubectl.lists("get nodes*", node("node-1"), node("node-2"))
    kubectl.lists("get deployments.apps --all-namespaces*", part("operator"))
    kubectl.lists("get deployments.apps --namespace security *", part("operator"))
    kubectl.lists("get deployments.apps,statefulsets.apps,daemonsets.apps*", *parts())
    kubectl.gives("get namespace security *", namespace("privileged"))
    kubectl.lists("get daemoneyepolicies.daemoneye.io*", policy("everything"))
    kubectl.lists("get findings.daemoneye.io*", finding("fileless-1"))
    kubectl.gives("get findings.daemoneye.io*jsonpath*", stdout="high 3\n")
    kubectl.lists("get events*")
    kubectl.gives("get configmap eye-daemoneye-operator --namespace security *", told())
    return kubectl
