"""The section `analytics` of a DaemonEyePolicy: how events become findings.

Responsible for its settings, as `daemoneye.api.v1alpha1.policy` is for the others; not for which detectors, features and models there are, which analytics
knows.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from daemoneye.api.v1alpha1.common import Model, crd, merge, misfit

_DAY: Final = 86_400

FeatureName = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class DetectorSettings(Model):
    """What one detector is told."""

    name: str = Field(
        description="Name of the detector as installed: one of the entry points of the group daemoneye.detectors.",
        min_length=1,
        max_length=63,
        json_schema_extra=merge("scoped"),
    )
    enabled: bool = Field(
        default=True,
        description="Whether the detector runs. On by default.",
        json_schema_extra=merge("scoped"),
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict,
        description=(
            "The detector's own settings by name; docs/reference/detectors.md names them with their units. In a cluster each is text in "
            'JSON: "3", "0.5", "[\\"/usr/bin/nc\\"]". Empty by default, which means its defaults.'
        ),
        max_length=64,
        # A structural schema knows no value of any type.
        json_schema_extra=merge("scoped") | crd(additionalProperties={"type": "string", "maxLength": 4096}),
    )


class BehavioralModel(Model):
    """A model of the behavioural analyser."""

    name: str = Field(
        description="Its name in findings, scores and metrics. A built-in model's name alone, such as process_rarity, means that one.",
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$",
        json_schema_extra=merge("singleton"),
    )
    features: tuple[FeatureName, ...] = Field(
        default=(),
        description=(
            "Names of features of the catalogue (docs/reference/features.md), all of windows, all of processes or all of connections. "
            "Those of the built-in model of that name by default."
        ),
        max_length=32,
        strict=False,
        json_schema_extra=merge("singleton"),
    )
    detector: str | None = Field(
        default=None,
        description=(
            "Name of the pyod detector that scores features of processes or connections, such as HBOS or IForest. "
            "None by default: their bits are added."
        ),
        min_length=1,
        max_length=63,
        json_schema_extra=merge("singleton"),
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The detector's parameters as pyod names them; in a cluster each is text in JSON. Empty by default, which means its defaults.",
        max_length=32,
        json_schema_extra=merge("singleton") | crd(additionalProperties={"type": "string", "maxLength": 1024}),
    )


class Analytics(Model):
    """How events become findings."""

    enable_behavioral_analysis: bool = Field(
        default=True,
        description=(
            "Learn what each workload usually does and report what differs; deterministic rules run either way. "
            "On by default."
        ),
        json_schema_extra=merge("or"),
    )
    anomaly_threshold: float = Field(
        default=0.8,
        description="Score from 0 to 1 from which on a window of a workload is reported as anomalous. 0.8 by default.",
        ge=0,
        le=1,
        json_schema_extra=merge("scoped"),
    )
    model_update_interval: int = Field(
        default=_DAY,
        description="Seconds between two trainings of the models. 86400 by default, a day.",
        ge=60,
        le=30 * _DAY,
        json_schema_extra=merge("singleton"),
    )
    enable_machine_learning: bool = Field(
        default=True,
        description=(
            "Score the windows of workloads by what was learned of them and of like ones, too; without it only rules and allow-lists speak. "
            "On by default."
        ),
        json_schema_extra=merge("or"),
    )
    alert_budget_per_day: int = Field(
        default=50,
        description=(
            "Findings of detectors that score which are told a day of the events' own time; those beyond it are counted and listed "
            "in analytics' status, and become no findings. 0 means no limit. 50 by default."
        ),
        ge=0,
        le=1_000_000,
        json_schema_extra=merge("scoped"),
    )
    models: tuple[BehavioralModel, ...] = Field(
        default=(),
        description="Models that score windows. The built-in ones of docs/reference/features.md by default.",
        max_length=16,
        strict=False,
        json_schema_extra=merge("singleton") | crd(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["name"]),
    )
    detectors: tuple[DetectorSettings, ...] = Field(
        default=(),
        description="Settings of single detectors; those not listed run with their defaults. Empty by default.",
        max_length=64,
        strict=False,
        json_schema_extra=merge("scoped") | crd(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["name"]),
    )

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for field, entries in (("detectors", self.detectors), ("models", self.models)):
            twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
            if twice:
                raise misfit(
                    field, f"names {', '.join(map(repr, twice))} more than once: keep one entry a {field[:-1]}"
                )
        return self
