"""YAML as a tree that knows where each of its values stands.

Responsible for reading one YAML document safely (bounded size, depth and expansion; no tags that make objects; no key
twice) and for the line and column of everything in it; not for what the keys mean (:mod:`daemoneye.api.policyfile`).

Composed from PyYAML's events rather than by ``yaml.compose``, which recurses without bound and keeps the last of two
equal keys silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml
from pydantic import JsonValue

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 20_000

_TAG: Final = "tag:yaml.org,2002:"
_KNOWN_TAGS: Final = tuple(_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null"))
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ValueEvent = yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; line and column count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a place; ``path`` is the key path, empty where there is none."""

    mark: Mark
    path: str
    text: str


class Unreadable(Exception):  # noqa: N818 - not an error of its own: policyfile turns it into a ConfigError
    """The text is no YAML that can be read on; holds the one problem."""

    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(mark, "", text)


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place. A mapping's ``value`` maps keys to nodes, and ``keys`` says where each key stands."""

    mark: Mark
    value: str | int | float | bool | list[Node] | dict[str, Node] | None
    keys: dict[str, Mark] = field(default_factory=dict)
    size: int = 1

    @property
    def entries(self) -> dict[str, Node]:
        """The mapping's entries; none for any other value."""
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> JsonValue:
        """Give the value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, *keys: str) -> Node | None:
        """Give the node below these keys; None where there is none."""
        node: Node | None = self
        for key in keys:
            node = node.entries.get(key) if node else None
        return node

    def mark_of(self, loc: tuple[str | int, ...]) -> Mark:
        """Give the place of the key or item at ``loc``, or of what comes nearest to it on the way."""
        mark, node = self.mark, self
        for step in loc:
            if step in node.entries:
                mark, node = node.keys[str(step)], node.entries[str(step)]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                mark = node.mark
            else:
                break
        return mark


def read(data: bytes) -> tuple[Node, list[Problem]]:
    """Read one YAML document; returns its tree and the problems that did not keep it from being read.

    Raises :class:`Unreadable` if there is no going on: too large, not UTF-8, broken syntax, several documents.
    """
    text = _decode(data)
    composer = _Composer(yaml.parse(text, Loader=_Loader))
    try:
        return composer.document(), composer.problems
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark)
        raise Unreadable(mark, f"broken YAML: {_explain(error, text, mark)}") from None
    except yaml.YAMLError as error:
        raise Unreadable(Mark(), f"broken YAML: {error}") from None


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise Unreadable(Mark(), f"the file has {len(data)} bytes; a configuration has at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        raise Unreadable(
            _end_of(before), f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from None
    if strange := _UNPRINTABLE.search(text):
        message = f"character U+{ord(strange[0]):04X} must not stand in YAML: remove it"
        raise Unreadable(_end_of(text[: strange.start()]), message)
    return text


def _end_of(text: str) -> Mark:
    return Mark(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


def _mark(mark: object) -> Mark:
    # Two unrelated classes with the same attributes: PyYAML's own and libyaml's; None where an event has no place.
    line, column = getattr(mark, "line", 0), getattr(mark, "column", 0)
    return Mark(line + 1, column + 1)


def _explain(error: yaml.MarkedYAMLError, text: str, mark: Mark) -> str:
    words = error.problem or "it breaks off"
    if error.context and error.context_mark is not None:
        words += f" {error.context}, which begins at line {_mark(error.context_mark).line}"
    lines = text.split("\n")
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if line[: mark.column].endswith("\t"):
        words += " (indent with blanks, not with tabs)"
    elif "mapping values are not allowed" in words:
        words += " (put a value that holds ': ' in quotes, or check the indentation)"
    return words


class _Composer:
    """Makes nodes of events; recursion is bounded by MAX_DEPTH."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.problems: list[Problem] = []
        self._events = events
        self._anchors: dict[str, Node] = {}
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()

    def document(self) -> Node:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise Unreadable(Mark(), "the file is empty")
        root = self._node(next(self._events), "", 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise Unreadable(_mark(event.start_mark), "a second document begins here: give one document a file")
        return root

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise Unreadable(mark, f"alias *{event.anchor} has no anchor before it")
            return self._anchors[event.anchor]
        if depth > MAX_DEPTH:
            raise Unreadable(mark, f"nested deeper than {MAX_DEPTH} levels")
        assert isinstance(event, _ValueEvent)  # noqa: S101 - an event that begins no value cannot stand here
        if event.tag and event.tag != "!" and event.tag not in _KNOWN_TAGS:
            raise Unreadable(mark, f"tag {event.tag!r} is not allowed: write the plain value")
        if isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(mark, path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, path, depth)
        else:
            node = self._scalar(event, mark, path)
        if node.size > MAX_NODES:
            raise Unreadable(mark, f"the file expands to more than {MAX_NODES} values: write fewer aliases")
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, mark: Mark, path: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            at = _mark(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                raise Unreadable(at, "a key must be plain text")
            key = str(event.value)
            if key == "<<" and not event.style:
                raise Unreadable(at, "merge keys (<<) are not supported: write the keys out")
            inner = f"{path}.{key}" if path else key
            node = self._node(next(self._events), inner, depth + 1)
            size = self._grown(size, node, at)
            if key in entries:
                text = f"is there already, at line {keys[key].line}: keep one of the two"
                self.problems.append(Problem(at, inner, text))
            else:
                entries[key], keys[key] = node, at
        return Node(mark, entries, keys, size)

    def _sequence(self, mark: Mark, path: str, depth: int) -> Node:
        items: list[Node] = []
        size = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            node = self._node(event, f"{path}[{len(items)}]", depth + 1)
            size = self._grown(size, node, mark)
            items.append(node)
        return Node(mark, items, size=size)

    @staticmethod
    def _grown(size: int, node: Node, mark: Mark) -> int:
        if size + node.size > MAX_NODES:
            raise Unreadable(
                mark, f"the file expands to more than {MAX_NODES} values: shorten it, or use fewer aliases"
            )
        return size + node.size

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark, path: str) -> Node:
        tag = event.tag if event.tag and event.tag != "!" else None
        if tag is None:
            tag = str(self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit))  # type: ignore[no-untyped-call]
        make = {
            _TAG + "bool": self._constructor.construct_yaml_bool,
            _TAG + "int": self._constructor.construct_yaml_int,
            _TAG + "float": self._constructor.construct_yaml_float,
            _TAG + "null": self._constructor.construct_yaml_null,
        }.get(tag)
        if make is None:  # text, and what YAML 1.1 takes for dates and the like
            return Node(mark, str(event.value))
        try:
            value = make(yaml.ScalarNode(tag, event.value))
        except (KeyError, ValueError, IndexError):
            self.problems.append(Problem(mark, path, f"{event.value!r} does not fit its tag: write the plain value"))
            value = None
        return Node(mark, value)
