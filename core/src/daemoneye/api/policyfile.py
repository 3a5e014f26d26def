"""Reading a policy from a file, with errors that a person can act on.

Responsible for the two forms in which a policy comes, a DaemonEyePolicy object (``daemoneye run --policy``) and the
specification's ``enterprise:`` file (``--config``), and for saying all that is wrong with one at once: file, line,
column, key, what is wrong and what to write instead. Not for what a setting means
(:mod:`daemoneye.api.v1alpha1.policy`) nor for which of them this machine can serve (:mod:`daemoneye.api.inactive`).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from pydantic import JsonValue, ValidationError

from daemoneye.api.explain import Spelling, explain
from daemoneye.api.v1alpha1.common import API_VERSION
from daemoneye.api.v1alpha1.policy import KIND, DaemonEyePolicy, PolicySpec
from daemoneye.api.yamltree import MAX_BYTES, Mark, Node, Problem, Unreadable, read
from daemoneye.errors import ConfigError
from daemoneye.escape import escape

DETECTOR_GROUP: Final = "daemoneye.detectors"
ENTERPRISE: Final = "enterprise"

_SPELLED: Final = {
    ("federation", "conflict_resolution"): {
        "primary_wins": "PrimaryWins",
        "timestamp_wins": "TimestampWins",
        "manual_review": "ManualReview",
    },
    ("network_monitoring", "flow_counter"): {"socket": "Socket", "xdp": "Xdp"},
}


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that is right, and what its reader should know about the file it came from."""

    policy: DaemonEyePolicy
    notes: tuple[str, ...] = ()
    spelling: Spelling = "camel"


def installed_detectors() -> frozenset[str]:
    """Names of the detectors that are installed here; none of them is imported."""
    return frozenset(entry_points(group=DETECTOR_GROUP).names)


def load_policy(path: Path, *, detectors: Collection[str] | None = None) -> LoadedPolicy:
    """Read a DaemonEyePolicy object from a YAML file.

    ``detectors`` are the names that the policy may use, by default those that are installed. Raises
    :class:`ConfigError`, which names every problem of the file.
    """
    tree, problems = _read(path)
    document = _mapping(path, tree, f"apiVersion: {API_VERSION}")
    if ENTERPRISE in document.entries and "spec" not in document.entries:
        problem = Problem(
            document.keys[ENTERPRISE], ENTERPRISE, "is the specification's form: read this file with --config instead"
        )
        raise _error(path, [problem])
    unknown, notes = _check_detectors(path, document.at("spec"), "spec", detectors)
    problems += unknown
    content = {key: node.plain() for key, node in document.entries.items()}
    if content.pop("status", None) is not None:
        notes.append(_note(path, document.keys["status"], "status is written by the operator: ignored"))
    try:
        policy = DaemonEyePolicy.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _error(path, problems + explain(error, DaemonEyePolicy, document, "camel")) from None
    if problems:
        raise _error(path, problems)
    return LoadedPolicy(policy, tuple(notes), "camel")


def load_config(path: Path, *, detectors: Collection[str] | None = None) -> LoadedPolicy:
    """Read the specification's file: settings in snake_case below ``enterprise:``.

    Keys beside ``enterprise:`` belong to the base product: they are ignored with a note. ``detectors`` and errors as
    for :func:`load_policy`.
    """
    tree, problems = _read(path)
    document = _mapping(path, tree, f"{ENTERPRISE}:")
    if "apiVersion" in document.entries and ENTERPRISE not in document.entries:
        problem = Problem(
            document.keys["apiVersion"], "apiVersion", "is a Kubernetes object: read this file with --policy instead"
        )
        raise _error(path, [problem])
    if ENTERPRISE not in document.entries:
        near = difflib.get_close_matches(ENTERPRISE, document.entries, 1)
        hint = f"; {escape(near[0])!r} is there: did you mean that?" if near else ""
        raise _error(
            path, [Problem(document.mark, ENTERPRISE, f"is missing: put the settings below `{ENTERPRISE}:`{hint}")]
        )
    notes = [
        _note(
            path, document.keys[key], f"{escape(key)} is outside {ENTERPRISE}: and belongs to the base product: ignored"
        )
        for key in document.entries
        if key != ENTERPRISE
    ]
    problems = [problem for problem in problems if problem.path.split(".")[0] == ENTERPRISE]
    settings = document.entries[ENTERPRISE]
    unknown, unchecked = _check_detectors(path, settings, ENTERPRISE, detectors)
    problems += unknown
    content = {} if settings.value is None else settings.plain()
    _translate(content)
    try:
        spec = PolicySpec.model_validate(content, by_alias=False, by_name=True)
    except ValidationError as error:
        raise _error(path, problems + explain(error, PolicySpec, settings, "snake", (ENTERPRISE,))) from None
    if problems:
        raise _error(path, problems)
    policy = DaemonEyePolicy.model_validate(
        {"api_version": API_VERSION, "kind": KIND, "metadata": {"name": ENTERPRISE}, "spec": spec}
    )
    return LoadedPolicy(policy, (*notes, *unchecked), "snake")


def _read(path: Path) -> tuple[Node, list[Problem]]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{_name(path)}: cannot be read: {error.strerror}"
        raise ConfigError(message) from None
    try:
        return read(data)
    except Unreadable as unreadable:
        raise _error(path, [unreadable.problem]) from None


def _mapping(path: Path, tree: Node, begin: str) -> Node:
    if not isinstance(tree.value, dict):
        raise _error(path, [Problem(tree.mark, "", f"this is no mapping of keys to values: begin with `{begin}`")])
    return tree


def _translate(content: JsonValue) -> None:
    """Turn the values that the specification spells in snake_case into the API's."""
    for (section, name), values in _SPELLED.items():
        settings = content.get(section) if isinstance(content, dict) else None
        if isinstance(settings, dict) and isinstance(value := settings.get(name), str):
            settings[name] = values.get(value, value)


def _check_detectors(
    path: Path, spec: Node | None, loc: str, known: Collection[str] | None
) -> tuple[list[Problem], list[str]]:
    """Check the detectors' names in the settings at ``loc``; gives problems and notes."""
    entries = spec.at("analytics", "detectors") if spec else None
    if entries is None or not isinstance(entries.value, list):
        return [], []
    known = installed_detectors() if known is None else known
    if not known:
        note = "the detectors' names are not checked, for no detector is installed beside this command"
        return [], [_note(path, entries.mark, note)]
    names = [(index, entry.at("name")) for index, entry in enumerate(entries.value)]
    problems = [
        Problem(name.mark, f"{loc}.analytics.detectors[{index}].name", _no_detector(name.value, known))
        for index, name in names
        if name and isinstance(name.value, str) and name.value not in known
    ]
    return problems, []


def _no_detector(name: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f'is "{escape(name)}", which no detector is called: {hint}installed are {", ".join(choices)}'


def _name(path: Path) -> str:
    return escape(str(path))


def _note(path: Path, mark: Mark, text: str) -> str:
    return f"{_name(path)}:{mark.line}:{mark.column}: {text}"


def _error(path: Path, problems: Iterable[Problem]) -> ConfigError:
    ordered = sorted(problems, key=lambda problem: problem.mark)
    return ConfigError(
        "\n".join(_note(path, each.mark, f"{escape(each.path)} {each.text}".lstrip()) for each in ordered)
    )
