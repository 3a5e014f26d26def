"""What an installation prints: commands that can be pasted, and warnings where values do not go together."""

from __future__ import annotations

import re

import pytest
import yaml

from daemoneye.api.policyfile import load_policy
from daemoneye_operator.reconcile.policies import Policy
from tests.chart.chart import CHART, notes, render


def policy(text):
    """The policy of the heredoc, as a shell would hand it to kubectl."""
    (found,) = re.findall(r"kubectl apply -f - <<'EOF'\n(.*?)^EOF$", text, re.DOTALL | re.MULTILINE)
    return found


def test_the_first_policy_can_be_pasted(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(policy(notes(tmp_path)))
    loaded = load_policy(file)
    assert loaded.notes == ()
    assert loaded.policy.spec.kernel_monitoring.enable_ebpf
    assert Policy.of(yaml.safe_load(file.read_text())).name == "first"


def test_commands_name_what_is_installed(tmp_path):
    text = notes(tmp_path)
    named = render()
    for deployment in re.findall(r"deployment/(\S+)", text):
        assert f"Deployment/{deployment}" in named
    assert "kubectl -n security wait --for=condition=Available" in text
    assert "kubectl wait --for=condition=Ready --timeout=3m depol/first" in text
    for command in ("kubectl get daemoneye\n", "kubectl get defind -A\n", "kubectl daemoneye events\n"):
        assert f"  {command}" in text
    assert "kubectl label --overwrite namespace security pod-security.kubernetes.io/enforce=privileged" in text


def test_what_is_installed_is_said(tmp_path):
    assert "operator, identity publisher, callout, analytics and a NATS broker." in notes(tmp_path)
    assert "analytics and 3 NATS brokers." in notes(tmp_path, values=CHART / "ci" / "r3-values.yaml")
    external = notes(tmp_path, values=CHART / "ci" / "external-nats-values.yaml")
    assert "the broker is yours, tls://nats.example.com:4443." in external
    assert "operator, identity publisher, analytics and nothing else" in external


@pytest.mark.parametrize(
    ("sets", "warnings"),
    [
        ((), []),
        (("nats.storage.enabled=false",), ["nats.storage.enabled is false: when"]),
        (("nats.replicas=3",), ["nats.replicas is 3 but streams.replicas is 1"]),
        (("nats.replicas=3", "streams.replicas=3"), []),
        (
            ("nats.external.url=nats://n:4222", "nats.external.credentialsSecretRef.name=users"),
            ["nats.external.url begins with nats://"],
        ),
        (("crds.enabled=false",), ["crds.enabled is false"]),
        (("crds.keep=false",), ["crds.keep is false"]),
    ],
)
def test_warnings(tmp_path, sets, warnings):
    said = [line.removeprefix("WARNING: ") for line in notes(tmp_path, *sets).splitlines() if "WARNING" in line]
    assert len(said) == len(warnings)
    assert all(words in line for words, line in zip(warnings, said, strict=True))


def test_no_line_is_cut_or_templated(tmp_path):
    text = notes(tmp_path, values=CHART / "ci" / "everything-set-values.yaml")
    assert "<no value>" not in text
    assert "%!" not in text
    assert "{{" not in text
