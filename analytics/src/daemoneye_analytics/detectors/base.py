"""What a detector is: its declaration, its protocol, its parameters.

Responsible for the contract between detectors and what runs them; which detectors exist is `daemoneye_analytics.registry`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

from daemoneye.errors import ConfigError
from daemoneye.findings import Finding, Technique
from daemoneye_analytics.exemptions import Exemption
from daemoneye_analytics.frame import Frame

Value: TypeAlias = int | float | bool | str | tuple[str, ...]
State: TypeAlias = dict[str, Any]
"""What a checkpoint keeps of a detector: numpy arrays without objects, and values that JSON can write."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting of a detector: its type is that of its default; `minimum` holds for numbers."""

    name: str
    default: Value
    doc: str
    minimum: float | None = None

    def parse(self, value: object, where: str) -> Value:
        """The value in the parameter's type.

        Raises:
            ConfigError: It has another type or is too small.
        """
        if isinstance(self.default, tuple):
            if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value):
                return tuple(value)
            raise ConfigError(f"{where}.{self.name}: {value!r} is not a list of strings")
        # In Python a bool is an int; in a configuration `true` is not 1.
        kinds = (int, float) if isinstance(self.default, float) else (type(self.default),)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(self.default, bool)):
            raise ConfigError(f"{where}.{self.name}: {value!r} is not of type {type(self.default).__name__}")
        if self.minimum is not None and isinstance(value, (int, float)) and not value >= self.minimum:
            raise ConfigError(f"{where}.{self.name}: {value} is less than {self.minimum:g}")
        return type(self.default)(value)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a detector says about itself.

    Attributes:
        name: Its name in configuration, status and findings.
        version: Part of the findings' ids: raise it when it judges otherwise.
        title: One line for people.
        docs: What it finds, what it misses and what it costs.
        severity: Severity of most of its findings.
        techniques: ATT&CK techniques that it can name.
        parameters: Its settings.
        behavioral: It learns what is normal; without behavioural analysis it does not run.
        scored: It scores by what it learned; without machine learning it does not run, and a policy's threshold holds for its findings.
    """

    name: str
    version: int
    title: str
    docs: str
    severity: str
    techniques: tuple[Technique, ...]
    parameters: tuple[Parameter, ...] = ()
    behavioral: bool = False
    scored: bool = False

    def runs(self, *, behavioral: bool, machine_learning: bool) -> bool:
        """Whether it runs where these are on or off."""
        return (behavioral or not self.behavioral) and (machine_learning or not self.scored)

    def resolve(self, given: Mapping[str, object]) -> dict[str, Any]:
        """All parameters with their values: those given, otherwise the defaults.

        Raises:
            ConfigError: A name is unknown, or a value does not fit.
        """
        known = {p.name: p for p in self.parameters}
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"detector {self.name}: unknown parameter {name!r}; it has {', '.join(known) or 'none'}"
                )
        return {
            name: p.parse(given[name], f"detector {self.name}") if name in given else p.default
            for name, p in known.items()
        }


class Detector(Protocol):
    """Something that finds. It is made with its resolved parameters and then given every batch once, in order of each node's sequence.

    What it finds must follow from the events alone: no clock, no chance, nothing of the batch's borders.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None: ...

    def process(self, frame: Frame) -> list[Finding]:
        """Findings of one batch's new rows; vectorised, Python only for rows that become findings."""
        ...

    def state(self) -> State:
        """What `restore` needs to go on as if nothing had happened."""
        ...

    def restore(self, state: State) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: It is of another form; the detector stays as it was made.
        """
        ...

    def status(self) -> dict[str, Any]:
        """`phase` (`learning`, `active` …) and figures for people, JSON."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """What a detector that scores does besides; see `Declaration.scored`. One that is declared so and lacks it runs without.

    Attributes:
        scores: Records of what was scored since somebody took them, JSON each; whoever takes them empties the list.
        repeated: The same of findings that it did not tell, for they repeat what it told; the newest of them.
    """

    scores: list[dict[str, Any]]
    repeated: list[Finding]

    @property
    def suppressed(self) -> int:
        """How much it found and did not tell, for it repeats what it told."""
        ...

    def forgive(self, exemptions: Sequence[Exemption]) -> None:
        """Learn what these verdicts call wanted, although it is unusual; they take the place of the former ones."""
        ...

    def details(self) -> dict[str, Any]:
        """Figures that are too long for every heartbeat, JSON."""
        ...


D = TypeVar("D", bound=type)


def detector(  # noqa: PLR0913 - a declaration's fields by name
    *,
    name: str,
    version: int,
    title: str,
    severity: str,
    techniques: tuple[Technique, ...],
    parameters: tuple[Parameter, ...] = (),
    behavioral: bool = False,
    scored: bool = False,
    docs: str = "",
) -> Callable[[D], D]:
    """Class decorator that gives a detector its declaration; `docs` defaults to the class's docstring."""

    def declare(cls: D) -> D:
        cls.declaration = Declaration(  # type: ignore[attr-defined]
            name, version, title, docs or cls.__doc__ or "", severity, techniques, parameters, behavioral, scored
        )
        return cls

    return declare
