"""Analytics' configuration file.

Responsible for its form and for refusing what does not fit, by name; detectors' own parameters are checked by
`daemoneye_analytics.registry`, and what a cluster's policies ask by `daemoneye_analytics.policies`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from daemoneye.broker.access import Access
from daemoneye.errors import ConfigError
from daemoneye_analytics import budget

T = TypeVar("T")
FILE: Final = "file"
BROKER: Final = "broker"
_MAX_PORT: Final = 65_535
_MOST: Final = 64
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts a pod's token."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Packets that are kept because of findings, in a cluster.

    Attributes:
        namespace: The installation's: where findings live that are about no pod.
        port: Where who may read is answered, on the loopback.
        service_account: Directory of the pod's own token and of the API server's authorities.
    """

    namespace: str
    port: int
    service_account: Path = SERVICE_ACCOUNT


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the configuration analytics uses; times in seconds. Other keys are for other readers and later versions.

    Attributes:
        broker: How to reach the broker.
        shards: How many event streams there are; all are read.
        parts: How many parts the workloads are divided into, in a cluster: each is one replica's to judge.
        lease_seconds: For how long a replica that fell silent keeps its shard from the others, in a cluster.
        configuration: Where detectors are configured: in this `file`, or on the `broker` by a cluster's policies.
        behavioral: Whether detectors that learn run; the file's.
        machine_learning: Whether those that score run; the file's.
        analysis: The analyser's `threshold`, `models` and `update_seconds`; the file's.
        alert_budget: Findings of detectors that score which are told a day, 0 for all; the file's.
        detectors: Settings of detectors; the file's.
        status_interval: Between heartbeats.
        health_port: Port of /healthz, /readyz and /metrics, 0 for none.
        evidence: How a cluster's installation gives packets out; None where it keeps none.
        keep: What is kept of packets because of the file's findings, on one machine: an entry of a policy (`daemoneye_analytics.vault.arming`).
    """

    broker: Access
    shards: int = 1
    parts: int = 1
    lease_seconds: float = 10.0
    configuration: str = FILE
    behavioral: bool = True
    machine_learning: bool = True
    analysis: Mapping[str, Any] = field(default_factory=dict)
    alert_budget: int = budget.DEFAULT
    detectors: tuple[Mapping[str, Any], ...] = ()
    status_interval: float = 10.0
    health_port: int = 0
    evidence: Evidence | None = None
    keep: Mapping[str, Any] | None = None


def load(path: Path) -> Settings:
    """Read the file.

    Raises:
        ConfigError: It cannot be read, is no JSON, or a value is missing or of the wrong type (named).
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return parse(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: object) -> Settings:
    """Settings from the parsed file; see `load`."""
    root = _typed(document, dict, "the document")
    analytics = _get(root, "analytics", dict, {})
    configuration = _get(root, "configuration", str, FILE)
    if configuration not in (FILE, BROKER):
        raise ConfigError(f"'configuration' is {configuration!r}, not {FILE!r} or {BROKER!r}")
    port = _port(root, "health_port", 0)
    evidence = _get(root, "evidence", dict, {})
    return Settings(
        broker=Access.parse(_get(root, "nats", dict)),
        shards=_number(root, "shards"),
        parts=_number(root, "parts") if configuration == BROKER else 1,
        lease_seconds=float(_get(root, "lease_seconds", (int, float), 10)),
        configuration=configuration,
        behavioral=_get(analytics, "enable_behavioral_analysis", bool, default=True),
        machine_learning=_get(analytics, "enable_machine_learning", bool, default=True),
        analysis={
            "threshold": float(_get(analytics, "anomaly_threshold", (int, float), 0.8)),
            "update_seconds": _get(analytics, "model_update_interval", int, 86_400),
            "models": declared(_get(analytics, "models", list, [])),
        },
        alert_budget=_get(analytics, "alert_budget_per_day", int, budget.DEFAULT),
        detectors=tuple(_typed(d, dict, "analytics.detectors") for d in _get(analytics, "detectors", list, [])),
        status_interval=float(_get(root, "status_interval_s", (int, float), 10)),
        health_port=port,
        evidence=_evidence(evidence) if evidence else None,
        keep=_get(root, "keep", dict, {}) or None,
    )


def declared(models: list[Any]) -> tuple[str, ...]:
    """Declared models in the form that a detector's parameter has: JSON each."""
    return tuple(json.dumps(model, sort_keys=True) for model in models)


def _evidence(table: Mapping[str, Any]) -> Evidence:
    try:
        account = _get(table, "service_account", str, str(SERVICE_ACCOUNT))
        return Evidence(_get(table, "namespace", str), _port(table, "port"), Path(account))
    except ConfigError as error:
        raise ConfigError(f"evidence: {error}") from error


def _port(table: Mapping[str, Any], name: str, default: int | None = None) -> int:
    port: int = _get(table, name, int, default)
    if not 0 <= port <= _MAX_PORT:
        raise ConfigError(f"{name!r} is {port}, not 0 (none) to {_MAX_PORT}")
    return port


def _number(root: Mapping[str, Any], name: str) -> int:
    number: int = _get(root, name, int, 1)
    if not 1 <= number <= _MOST:
        raise ConfigError(f"{name!r} is {number}, not 1 to {_MOST}")
    return number


def _get(table: Mapping[str, Any], name: str, kind: Any, default: T | None = None) -> Any:
    if name not in table:
        if default is None:
            raise ConfigError(f"{name!r} is missing")
        return default
    return _typed(table[name], kind, repr(name))


def _typed(value: object, kind: Any, name: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "number")
        raise ConfigError(f"{name} is {value!r}, not of type {wanted}")
    return value
