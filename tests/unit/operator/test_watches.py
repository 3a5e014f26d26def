"""What the operator takes for the end of its release."""

from types import SimpleNamespace

import pytest

from daemoneye_operator.controller import Watches
from daemoneye_operator.reconcile.findingobject import Ref
from tests.unit.operator.factory import settings


@pytest.fixture
def watches():
    return Watches(SimpleNamespace(api=None), settings(), lambda: None)  # type: ignore[arg-type]


def deployment(uninstall):
    return {("security", "operator"): {"name": "d-operator", "uid": "u", "uninstall": uninstall}}


def test_outside_of_a_cluster_there_is_no_deployment_and_no_end(watches):
    assert not watches.uninstalling()
    assert watches.owner() is None


def test_the_annotation_says_so(watches):
    watches.deployment.objects.update(deployment(uninstall=False))
    assert not watches.uninstalling()
    watches.deployment.objects.update(deployment(uninstall=True))
    assert watches.uninstalling()


def test_a_deployment_that_is_gone_does_not_come_back_with_sensors(watches):
    """Helm deletes it before our pod has ended: policies that are kept must not bring the DaemonSet back, owned by nobody."""
    watches.deployment.objects.update(deployment(uninstall=True))
    assert watches.uninstalling()
    watches.deployment.objects.clear()
    assert watches.uninstalling()
    assert not watches.orphaned()


def test_a_deployment_that_is_replaced_empties_no_node(watches):
    assert not watches.orphaned()
    watches.deployment.objects.update(deployment(uninstall=False))
    assert not watches.uninstalling()
    watches.deployment.objects.clear()
    assert not watches.uninstalling()
    assert watches.orphaned()


def test_findings_that_are_deleted_are_told(watches):
    gone: list[Ref] = []
    watches.finding_gone = gone.append
    watches.findings._on_event("DELETED", ("shop", "x"), None)
    watches.findings._on_event("ADDED", ("shop", "y"), None)
    assert gone == [Ref("shop", "x")]
