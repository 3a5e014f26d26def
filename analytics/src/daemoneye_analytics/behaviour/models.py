"""The models of an analyser as somebody declared them, checked against the catalogue.

Responsible for what may be declared and for the built-in set; fitting and judging are others' affair. A model looks either at features of the window
(their calibrated surprises are added) or at features of each process, or of each connection: those go through a pyod detector, or are added where none is
named, and the window's most unusual row counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from daemoneye import jsontext
from daemoneye.errors import ConfigError
from daemoneye_analytics.behaviour.catalogue import BY_NAME, CONNECTION, FEATURES, SCOPES, WINDOW

MAX_MODELS: Final = 16
_FLOW: Final = (
    "destination_bits", "program_port_bits", "contact_relative_bits", "new_contacts", "sent_bytes", "received_bytes", "sent_ratio", "duration", "direction",
    "peer_class", "connect_failed", "fan_out", "connections",
)  # fmt: skip
_SHAPE: Final = (
    "exe_bits", "pair_bits", "user_bits", "args_bits", "relative_bits", "new_items", "argc", "args_length", "args_entropy", "path_depth", "path_class",
    "user_change", "privilege_gain", "odd_file", "ancestors",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BehavioralModel:
    """A model of the analyser as it was declared.

    Attributes:
        name: Its name in findings, scores and metrics.
        features: Names of the catalogue's, all of one scope.
        detector: Name of a pyod detector; empty for none.
        parameters: That detector's.
        weight: How much of the alarms it may raise, beside the other models' weights.
    """

    name: str
    features: tuple[str, ...]
    detector: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def scope(self) -> str:
        """`window`, `process` or `connection`."""
        return BY_NAME[self.features[0]].scope

    @property
    def learned(self) -> bool:
        """Whether it is fitted before it speaks."""
        return bool(self.detector)


# Of the built-in models the signs of an intrusion find by far the most, then rarity (docs/behaviour.md): with equal weights the others' alarms were paid
# for by them. Chosen on the corpus' development split.
INTRUSION: Final = BehavioralModel("intrusion", ("intrusion",), weight=40.0)
RARITY: Final = BehavioralModel("process_rarity", ("rarest", "suspicion"), weight=8.0)
SHIFT: Final = BehavioralModel("process_shift", ("shift",))
SHAPE: Final = BehavioralModel("process_shape", _SHAPE, "HBOS")
SEQUENCE: Final = BehavioralModel("sequence", ("tree_bits",))
CONTACT: Final = BehavioralModel("network_contact", ("contact_bits",))
FLOW: Final = BehavioralModel("network_flow", _FLOW, "HBOS")
BUILT_IN: Final = (INTRUSION, RARITY, SHIFT, SHAPE)
OPTIONAL: Final = (SEQUENCE, CONTACT, FLOW)
"""Known by name, and off unless they are declared."""
_KNOWN: Final = {spec.name: spec for spec in (*BUILT_IN, *OPTIONAL)}


def parse(given: Sequence[Mapping[str, Any]]) -> tuple[BehavioralModel, ...]:
    """Declared models; the built-in set if none are.

    Args:
        given: `name`, `features`, `detector`, `parameters` each; a built-in model's name alone is enough.

    Raises:
        ConfigError: What is wrong with which of them, with the choices.
    """
    if not given:
        return BUILT_IN
    if len(given) > MAX_MODELS:
        raise ConfigError(f"{len(given)} models; at most {MAX_MODELS} are judged together")
    specs = tuple(_spec(entry, number) for number, entry in enumerate(given, 1))
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"model {twice[0]!r} is declared twice: names must differ")
    if all(spec.scope == CONNECTION for spec in specs):
        raise ConfigError(
            f"model {names[0]!r} looks at connections alone: declare one of executions beside it, such as {RARITY.name}"
        )
    return specs


def read(text: str) -> Mapping[str, Any]:
    """One declared model from its JSON, which is how a detector's parameter holds it.

    Raises:
        ConfigError: It is no JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"model {text[:60]!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"model {text[:60]!r} is no JSON object")
    return value


def held(given: Sequence[str], declared: Sequence[BehavioralModel]) -> dict[str, int]:
    """Models that are to stay at a training that is kept: name → its number.

    Args:
        given: `NAME=NUMBER` each.
        declared: The models that there are.

    Raises:
        ConfigError: One is no such text, or names no trained model, with the choices.
    """
    trained = [model.name for model in declared if model.learned]
    found = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if name not in trained:
            raise ConfigError(
                f"held model {text!r}: write NAME=NUMBER with a trained model's name; there are {', '.join(trained) or 'none'}"
            )
        if not (number.isascii() and number.isdecimal()) or int(number[:10]) < 1:
            raise ConfigError(
                f"held model {text!r}: {number!r} is no number of a training, which are counted from 1 on"
            )
        found[name] = int(number[:10])
    return found


def _spec(entry: Mapping[str, Any], number: int) -> BehavioralModel:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"model {number} has no name")
    where = f"model {name!r}"
    built_in = _KNOWN.get(name)
    features = entry.get("features") or (built_in.features if built_in else ())
    if not features:
        raise ConfigError(
            f"{where} names no features, and is none of the built-in {', '.join(_KNOWN)}; there are {_choices()}"
        )
    if unknown := [f for f in features if f not in BY_NAME]:
        raise ConfigError(f"{where}: there is no feature {unknown[0]!r}; there are {_choices()}")
    if len({BY_NAME[f].scope for f in features}) > 1:
        mixed = "; ".join(
            f"of {scope}: {', '.join(f for f in features if BY_NAME[f].scope == scope)}"
            for scope in SCOPES
            if any(BY_NAME[f].scope == scope for f in features)
        )
        raise ConfigError(f"{where} mixes features of different scopes ({mixed}): declare a model for each")
    if len(set(features)) < len(features):
        raise ConfigError(f"{where} names a feature twice")
    detector = entry.get("detector") or (built_in.detector if built_in else "")
    parameters = entry.get("parameters") or {}
    if BY_NAME[features[0]].scope == WINDOW and (detector or parameters):
        raise ConfigError(
            f"{where}: detectors are for features of processes and connections; features of windows are added by their calibrated surprise"
        )
    if parameters and not detector:
        raise ConfigError(f"{where} has parameters and no detector that takes them")
    weight = built_in.weight if built_in else 1.0
    spec = BehavioralModel(
        name, tuple(features), detector, {k: jsontext.value(v) for k, v in parameters.items()}, weight
    )
    if spec.learned:
        from daemoneye_analytics.behaviour import shape

        shape.check(spec.detector, spec.parameters, where)
    return spec


def _choices() -> str:
    return "; ".join(f"of {scope}: {', '.join(f.name for f in FEATURES if f.scope == scope)}" for scope in SCOPES)
