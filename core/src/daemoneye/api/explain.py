"""pydantic's validation errors in words for the person who wrote the file.

Responsible for each error's place, key path, what is wrong and what to write instead; not for finding the errors.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pydantic import BaseModel, ValidationError

from daemoneye.api.yamltree import Node, Problem
from daemoneye.escape import escape

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Spelling = Literal["camel", "snake"]
Loc = tuple[str | int, ...]

_SHOWN: Final = 60
_WANTED: Final = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping of keys to values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "text (put it in quotes if it looks like a number or a switch)",
    "tuple_type": "a list",
}
_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def explain(
    error: ValidationError, model: type[BaseModel], tree: Node, spelling: Spelling, prefix: Loc = ()
) -> list[Problem]:
    """Turn each error of ``error``, raised for ``model`` at ``tree``, into a problem.

    ``spelling`` is how the file writes keys, ``prefix`` where ``tree`` stands in it.
    """
    problems = []
    for details in error.errors(include_url=False):
        loc = details["loc"]
        setting = details.get("ctx", {}).get("setting")
        if setting is not None:  # an error of several settings together, raised one level above the one to blame
            loc = (*loc, _spell(setting, model_at(model, loc), spelling))
        problems.append(Problem(tree.mark_of(loc), dotted((*prefix, *loc)), _text(details, model, loc, spelling)))
    return problems


def dotted(loc: Loc) -> str:
    """Write a key path as people do: ``spec.analytics.detectors[0].name``."""
    path = ""
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def keys(model: type[BaseModel], spelling: Spelling) -> dict[str, FieldInfo]:
    """Give a model's keys as the file writes them."""
    return {_spell(name, model, spelling): field for name, field in model.model_fields.items()}


def model_at(model: type[BaseModel] | None, loc: Loc) -> type[BaseModel] | None:
    """Give the model of the mapping at ``loc``; None where free-form values stand."""
    for step in loc:
        if model is None:
            return None
        if isinstance(step, str):
            field = keys(model, "camel").get(step) or keys(model, "snake").get(step)
            model = _model_in(field.annotation) if field else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _spell(name: str, model: type[BaseModel] | None, spelling: Spelling) -> str:
    field = model.model_fields[name] if model else None
    return (field.alias if field and spelling == "camel" else None) or name


def _field(model: type[BaseModel], loc: Loc, spelling: Spelling) -> FieldInfo | None:
    """Give the field at ``loc``; for an item of a list of plain values, the list's."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    parent = model_at(model, loc[:-1]) if loc else None
    return keys(parent, spelling).get(str(loc[-1])) if parent else None


def _text(details: ErrorDetails, model: type[BaseModel], loc: Loc, spelling: Spelling) -> str:
    kind, ctx, given = details["type"], details.get("ctx", {}), _shown(details["input"])
    parent, field = model_at(model, loc[:-1]), _field(model, loc, spelling)
    if kind == "misfit":
        return str(escape(ctx["text"]))
    if kind == "extra_forbidden":
        return _unknown(str(loc[-1]), parent, spelling)
    if kind == "missing":
        return f"is missing: add it{_about(field)}"
    if kind in {"model_type", "model_attributes_type"}:
        inner = model_at(model, loc)
        return f"is {given}: write a mapping with keys such as {', '.join(keys(inner, spelling)) if inner else ''}"
    if kind == "literal_error":
        return _no_choice(details["input"], field, spelling)
    if kind in _WANTED:
        return f"is {given}: write {_WANTED[kind]}{_about(field)}"
    return f"is {given}: {_constraint(kind, ctx, field)}{_about(field)}"


def _unknown(key: str, parent: type[BaseModel] | None, spelling: Spelling) -> str:
    choices = keys(parent, spelling) if parent else {}
    near = difflib.get_close_matches(key.lower(), {choice.lower(): choice for choice in choices}, 1, 0.5)
    if near:
        return f"is no setting: did you mean {next(choice for choice in choices if choice.lower() == near[0])}?"
    return f"is no setting: remove it, or write one of {', '.join(choices)}"


def _no_choice(value: object, field: FieldInfo | None, spelling: Spelling) -> str:
    choices = [str(choice) for choice in get_args(field.annotation)] if field else []
    if spelling == "snake":
        choices = ["".join(f"_{c.lower()}" if c.isupper() else c for c in choice).lstrip("_") for choice in choices]
    near = difflib.get_close_matches(str(value), choices, 1)
    hint = f"did you mean {near[0]}? " if near and len(choices) > 1 else ""
    one = "write" if len(choices) == 1 else "write one of"
    return f"is {_shown(value)}: {hint}{one} {', '.join(choices)}"


def _constraint(kind: str, ctx: Mapping[str, Any], field: FieldInfo | None) -> str:
    if kind.startswith(("greater_than", "less_than")):
        return f"write a number that is {_range(ctx, field)}"
    match kind:
        case "string_too_short":
            return "write some text"
        case "string_too_long":
            return f"write at most {ctx['max_length']} characters"
        case "too_long":
            return f"write at most {ctx['max_length']} entries"
        case "string_pattern_mismatch":
            return (
                f"write text such as {field.examples[0]}"
                if field and field.examples
                else f"write text that matches {ctx['pattern']}"
            )
    return f"not allowed here ({escape(kind.replace('_', ' '))})"


def _range(ctx: Mapping[str, Any], field: FieldInfo | None) -> str:
    constraints = field.metadata if field else []
    found = [
        f"{words} {getattr(constraint, name)}"
        for constraint in constraints
        for name, words in _BOUNDS.items()
        if hasattr(constraint, name)
    ]
    return " and ".join(found) or " and ".join(f"{_BOUNDS[name]} {ctx[name]}" for name in ctx if name in _BOUNDS)


def _about(field: FieldInfo | None) -> str:
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


def _shown(value: object) -> str:
    """Show a value as the file may have it, short and harmless to a terminal."""
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
