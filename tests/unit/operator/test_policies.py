"""Objects of the API become policies, or one message."""

import pytest

from daemoneye.errors import ConfigError
from daemoneye_operator.reconcile.policies import Policy, read_all
from tests.unit.operator.factory import policy_object


def test_an_object_is_read():
    policy = Policy.of(policy_object("a", 5, 3, networkMonitoring={"enablePacketCapture": True}))
    assert (policy.name, policy.uid, policy.generation) == ("a", "uid-a", 3)
    assert policy.spec.network_monitoring.enable_packet_capture


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kernelMonitoring": {"enableEbpf": "yes"}}, 'spec.kernelMonitoring.enableEbpf is "yes": write true or false'),
        ({"kernelMonitering": {}}, "spec.kernelMonitering is no setting: did you mean kernelMonitoring"),
        ({"networkMonitoring": {"maxPacketSize": 1}}, "spec.networkMonitoring.maxPacketSize is 1: write a number that is at least 64"),
        ({"federation": {"enableFederation": True}}, "spec.federation.enableFederation is on, but no peer is named"),
        ({"selector": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}, "values"),
        ([], "spec"),
    ],
)  # fmt: skip
def test_a_wrong_spec_is_told_with_its_path(spec, words):
    with pytest.raises(ConfigError) as caught:
        Policy.of({**policy_object(), "spec": spec or ["x"]})
    assert words in str(caught.value)


def test_an_unknown_version_is_told():
    with pytest.raises(
        ConfigError, match=r"apiVersion is 'daemoneye\.io/v9': this operator reads daemoneye\.io/v1alpha1"
    ):
        Policy.of({**policy_object(), "apiVersion": "daemoneye.io/v9"})


def test_a_message_has_a_bound():
    with pytest.raises(ConfigError) as caught:
        Policy.of({**policy_object(), "spec": {f"wrong{number}": 1 for number in range(500)}})
    assert "and 492 more" in str(caught.value)
    assert len(str(caught.value)) < 4096


def test_one_wrong_object_keeps_none_of_the_others_from_working():
    gone = policy_object("gone")
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    policies = read_all(
        [policy_object("b", 2), policy_object("bad", analytics=1), gone, policy_object("a", 3), policy_object("c", 2)]
    )
    assert [policy.name for policy in policies.valid] == ["b", "c", "a"]
    assert list(policies.invalid) == ["bad"]
