"""Which detectors there are, and which of them run.

Responsible for finding detectors (built in, or entry points of the group `daemoneye.detectors`) and for making those that a
configuration asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

from daemoneye.errors import ConfigError
from daemoneye_analytics.behaviour.detector import BehavioralAnomaly
from daemoneye_analytics.detectors.base import Declaration, Detector
from daemoneye_analytics.detectors.beacon import Beacon
from daemoneye_analytics.detectors.cloud_metadata import CloudMetadata
from daemoneye_analytics.detectors.dns_tunnel import DnsTunnel
from daemoneye_analytics.detectors.first_seen import FirstSeen
from daemoneye_analytics.detectors.mining_pool import MiningPool
from daemoneye_analytics.detectors.network_scan import NetworkScan
from daemoneye_analytics.detectors.suspicious_exec import SuspiciousExec
from daemoneye_analytics.detectors.tls_without_name import TlsWithoutName

GROUP: Final = "daemoneye.detectors"
# In this order they run: what learns comes after what knows, so that it does not learn what was found.
BUILT_IN: Final[tuple[type[Detector], ...]] = (
    SuspiciousExec, FirstSeen, CloudMetadata, NetworkScan, DnsTunnel, Beacon, MiningPool, TlsWithoutName, BehavioralAnomaly,
)  # fmt: skip
_LOG = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """A detector that is to run, with the parameters that it was made with."""

    detector: Detector
    parameters: Mapping[str, Any]


def available() -> dict[str, type[Detector]]:
    """Every detector by its name.

    An entry point names a detector's class or the module that holds it. Another distribution's detector never takes the place
    of a built-in one; one that fails to load is logged and left out.
    """
    found = {cls.declaration.name: cls for cls in BUILT_IN}
    for point in entry_points(group=GROUP):
        try:
            classes = _classes(point.load())
        except Exception:  # noqa: BLE001
            # Somebody else's package: whatever it raises, the others must run.
            _LOG.exception("detector %s (%s) cannot be loaded and is left out", point.name, point.value)
            continue
        if not classes:
            _LOG.error("detector %s (%s) holds no class with @detector and is left out", point.name, point.value)
        for cls in classes:
            if found.setdefault(cls.declaration.name, cls) is not cls:
                _LOG.error(
                    "detector %s (%s) has the name of another one and is left out", cls.declaration.name, point.value
                )
    return found


def _classes(loaded: object) -> list[type[Detector]]:
    """The detectors that an entry point's object is or holds."""
    candidates = [loaded] if isinstance(loaded, type) else list(vars(loaded).values())
    return [c for c in candidates if isinstance(c, type) and isinstance(vars(c).get("declaration"), Declaration)]


def build(
    settings: Sequence[Mapping[str, Any]] = (),
    *,
    behavioral: bool = True,
    machine_learning: bool = True,
    analysis: Mapping[str, Any] | None = None,
) -> list[Chosen]:
    """The detectors that run: all that there are, but for those that the settings switch off.

    Args:
        settings: `{"name", "enabled", "parameters"}` each; the last two may be missing.
        behavioral: Whether detectors that learn what is normal run.
        machine_learning: Whether those of them that score run.
        analysis: Settings of the analyser; see `scoring`.

    Raises:
        ConfigError: A name or parameter is unknown (with the choices), or a value does not fit.
    """
    known = available()
    chosen: dict[str, Mapping[str, Any]] = {}
    for setting in settings:
        name = setting.get("name")
        if name not in known:
            raise ConfigError(f"unknown detector {name!r}; there are {', '.join(sorted(known))}")
        if name in chosen:
            raise ConfigError(f"detector {name!r} is configured twice")
        chosen[name] = setting
    detectors = []
    for name, cls in known.items():
        setting = chosen.get(name, {})
        declaration = cls.declaration
        parameters = declaration.resolve({**scoring(declaration, analysis or {}), **(setting.get("parameters") or {})})
        if setting.get("enabled", True) and declaration.runs(behavioral=behavioral, machine_learning=machine_learning):
            detectors.append(Chosen(cls(parameters), parameters))
    return detectors


def scoring(declaration: Declaration, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """What of the analyser's settings (`threshold`, `models`, `update_seconds`) is a parameter of a detector that scores."""
    known = {parameter.name for parameter in declaration.parameters}
    return {name: value for name, value in analysis.items() if declaration.scored and name in known}
