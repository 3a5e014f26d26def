"""Settings that this machine, or this build, cannot serve.

Responsible for naming each with its reason, so that a policy written for a whole fleet runs everywhere and nobody
takes silence for safety; not for refusing them: that is no error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemoneye.api.explain import Spelling, dotted, keys
from daemoneye.api.v1alpha1.analytics import Analytics
from daemoneye.api.v1alpha1.policy import DaemonEyePolicy, PolicySpec

if TYPE_CHECKING:
    from pydantic import BaseModel

_SYSTEMS: Final = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}
_LATER: Final = "arrives with a later release"


@dataclass(frozen=True, slots=True)
class Inactive:
    """A setting that has no effect here; ``setting`` is its key path as the file spells it."""

    setting: str
    reason: str

    def __str__(self) -> str:
        return f"{self.setting} is inactive: {self.reason}"


def inactive(
    policy: DaemonEyePolicy, platform: str = sys.platform, *, spelling: Spelling = "camel", no_evidence: str = ""
) -> list[Inactive]:
    """Name the settings of ``policy`` that are asked for and not served on ``platform`` (as :data:`sys.platform`).

    ``no_evidence`` says why no packets are kept because of findings, if nobody keeps any.
    """
    found = [*_findings(policy.spec, platform), *_evidence(policy.spec, no_evidence)]
    return [Inactive(_path(policy.spec, section, field, spelling), reason) for section, field, reason in found]


def _evidence(spec: PolicySpec, no_evidence: str) -> Iterator[tuple[str, str, str]]:
    network = spec.network_monitoring
    if not network.evidence.enabled:
        return
    if no_evidence:
        yield "network_monitoring", "evidence", no_evidence
    elif not network.enable_packet_capture:
        yield "network_monitoring", "evidence", "the policy captures no packets that could be kept"


def _findings(spec: PolicySpec, platform: str) -> Iterator[tuple[str, str, str]]:
    system = _SYSTEMS.get(platform, platform)
    kernel = spec.kernel_monitoring
    if kernel.enable_ebpf and platform != "linux":
        yield "kernel_monitoring", "enable_ebpf", f"eBPF is a part of Linux, and this is {system}"
    if kernel.ebpf_program_path is not None:
        yield (
            "kernel_monitoring",
            "ebpf_program_path",
            f"loading own eBPF objects {_LATER}; DaemonEye's own programs run",
        )
    if kernel.enable_etw:
        reason = (
            f"Event Tracing for Windows {_LATER}"
            if platform == "win32"
            else f"Event Tracing is a part of Windows, and this is {system}"
        )
        yield "kernel_monitoring", "enable_etw", reason
    if kernel.enable_endpoint_security:
        reason = (
            f"Endpoint Security {_LATER}"
            if platform == "darwin"
            else f"Endpoint Security is a part of macOS, and this is {system}"
        )
        yield "kernel_monitoring", "enable_endpoint_security", reason
    if spec.network_monitoring.enable_packet_capture and platform != "linux":
        yield "network_monitoring", "enable_packet_capture", f"packets are captured on Linux only, and this is {system}"
    if spec.federation.enable_federation:
        yield "federation", "enable_federation", f"federation {_LATER}"
    if spec.stix_taxii.enable_integration:
        yield "stix_taxii", "enable_integration", f"STIX/TAXII integration {_LATER}"
    default = Analytics.model_fields["anomaly_threshold"].default
    scored = spec.analytics.enable_behavioral_analysis and spec.analytics.enable_machine_learning
    off = "no windows are scored: enableBehavioralAnalysis and enableMachineLearning are needed for that"
    if spec.analytics.anomaly_threshold != default and not scored:
        yield "analytics", "anomaly_threshold", off
    if spec.analytics.alert_budget_per_day != Analytics.model_fields["alert_budget_per_day"].default and not scored:
        yield "analytics", "alert_budget_per_day", off
    if spec.analytics.models and not scored:
        yield "analytics", "models", off


def _path(spec: PolicySpec, section: str, field: str, spelling: Spelling) -> str:
    inner: type[BaseModel] = type(getattr(spec, section))
    root = "enterprise" if spelling == "snake" else "spec"
    return dotted((root, _spelled(PolicySpec, section, spelling), _spelled(inner, field, spelling)))


def _spelled(model: type[BaseModel], name: str, spelling: Spelling) -> str:
    return next(key for key, field in keys(model, spelling).items() if field is model.model_fields[name])
