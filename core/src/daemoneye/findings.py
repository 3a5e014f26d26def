"""What a detector found: the object that travels from analytics to people, and its JSON form.

Responsible for the form, its bounds and its identity. How something is found is a detector's affair, where findings are
kept `daemoneye.subjects`' and how they are shown the command line's.

A finding's id follows from what happened and not from how it reached us (`finding_id`): the same events, read twice, read
in other batches or replayed from a recording, give the same id, so that copies collapse.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from daemoneye.errors import CorruptData
from daemoneye.subjects import SEVERITIES

ATTACK_VERSION: Final = "18.1"
"""Release of MITRE ATT&CK that the techniques' ids and names are from."""
MAX_BYTES: Final = 16 * 1024
"""Largest JSON form of a finding, in bytes."""
MAX_ARGV: Final = 4 * 1024
"""Bytes of one process's arguments that a finding shows."""
ENDPOINTS: Final = ("src_ip", "src_port", "dst_ip", "dst_port", "proto")
"""Fields of a subject that is about the network."""
_MAX_ITEMS: Final = 32
_MAX_READ: Final = 4 * MAX_BYTES
_CUT: Final = "…"
_NAME: Final = re.compile(r"[A-Za-z0-9.-]{1,253}")
_CLIPPED: Final = (
    "node", "workload", "container_id", "pod_uid", "exe", "namespace", "pod", "container", "image", "owner_kind", "owner_name", "src_ip", "dst_ip", "proto",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Limits:
    """Characters of a text, bytes of argv (of the subject, of its ancestors), processes in the tree, items of a list, labels, policies."""

    text: int = 1024
    argv: int = MAX_ARGV
    tree_argv: int = MAX_ARGV
    tree: int = 16
    items: int = _MAX_ITEMS
    labels: int = 128
    policies: int = 64


# The last one fits whatever the texts are: JSON needs up to twelve bytes for a character.
_NARROWER: Final = (
    _Limits(tree_argv=256),
    _Limits(text=256, tree_argv=64, labels=32),
    _Limits(text=256, argv=2048, tree_argv=64, tree=3, items=8, labels=16, policies=32),
    _Limits(text=64, argv=512, tree_argv=16, tree=2, items=4, labels=4, policies=16),
    _Limits(text=32, argv=64, tree_argv=16, tree=1, items=4, labels=0, policies=4),
)


@dataclass(frozen=True, slots=True)
class Technique:
    """An ATT&CK technique: `T1059.004`, `Unix Shell`."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Process:
    """A process as a finding shows it."""

    pid: int
    exe: str
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """Who did it. Texts that are not known are empty; `start_time` is RFC 3339, `process_uid` 16 hex digits.

    From `namespace` on it says what Kubernetes knows of the pod: nothing on one machine. From `src_ip` on it says between whom it happened, where
    it is about the network: `pid` is 0 where no process is known. JSON leaves these out where they are empty.
    """

    node: str
    workload: str = ""
    container_id: str = ""
    pod_uid: str = ""
    pid: int = 0
    start_time: str = ""
    exe: str = ""
    argv: tuple[str, ...] = ()
    process_uid: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner_kind: str = ""
    owner_name: str = ""
    src_ip: str = ""
    src_port: int = 0
    dst_ip: str = ""
    dst_port: int = 0
    proto: str = ""


@dataclass(frozen=True, slots=True)
class EventReference:
    """The place of an event: (node, epoch, lane, sequence) names one row for ever."""

    node: str
    epoch: int
    lane: str
    sequence: int
    event: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        id: 32 hex digits, see `finding_id`.
        time: When it happened, RFC 3339 with nanoseconds; never when it was noticed.
        severity: One of `daemoneye.subjects.SEVERITIES`.
        score: How bad or unlikely, 0 to 1.
        detector: Name of the detector.
        title: One line for people.
        subject: The process that it is about.
        key: What it is about, without time and process: findings with the same key repeat each other.
        techniques: ATT&CK techniques, the most telling first.
        attack_version: Release of ATT&CK that they are from.
        explanation: Sentences that say why.
        confidence: How sure the detector is of its facts, 0 to 1.
        confidence_reasons: Sentences that say what lowers it.
        events: Rows that it rests on.
        process_tree: From the oldest known ancestor to the subject.
        policies: Names of the policies that the subject belongs to; none on one machine.

    Raises:
        ValueError: The severity is unknown, or score or confidence lie outside of 0 to 1.
    """

    id: str
    time: str
    severity: str
    score: float
    detector: str
    title: str
    subject: Subject
    key: str
    techniques: tuple[Technique, ...] = ()
    attack_version: str = ATTACK_VERSION
    explanation: tuple[str, ...] = ()
    confidence: float = 1.0
    confidence_reasons: tuple[str, ...] = ()
    events: tuple[EventReference, ...] = ()
    process_tree: tuple[Process, ...] = ()
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no reader could place."""
        if self.severity not in SEVERITIES:
            msg = f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}"
            raise ValueError(msg)
        if not (0 <= self.score <= 1 and 0 <= self.confidence <= 1):
            msg = f"score {self.score} and confidence {self.confidence} must lie in 0 to 1"
            raise ValueError(msg)

    def to_json(self) -> dict[str, Any]:
        """The command line's contract for `kind: finding`, at most `MAX_BYTES` when written as JSON.

        Long arguments and sentences are cut, marked with an ellipsis. What is still too large loses first the ancestors'
        arguments, then the oldest ancestors, then ever more of its texts.
        """
        value = self._clipped(_Limits())
        for limits in _NARROWER:
            if len(_dump(value)) <= MAX_BYTES:
                break
            value = self._clipped(limits)
        return value

    def encode(self) -> bytes:
        """The JSON form as bytes: what travels."""
        return _dump(self.to_json())

    def _clipped(self, limits: _Limits) -> dict[str, Any]:
        value: dict[str, Any] = {"kind": "finding", **asdict(self)}
        value["techniques"] = value["techniques"][:_MAX_ITEMS]
        value["events"] = value["events"][: limits.items]
        value["process_tree"] = value["process_tree"][-limits.tree :]
        for name in ("title", "key"):
            value[name] = _clip(value[name], limits.text)
        for name in ("explanation", "confidence_reasons"):
            value[name] = [_clip(s, limits.text) for s in value[name][: limits.items]]
        # Half a name would be another policy's: names stay whole or go.
        value["policies"] = [name for name in value["policies"] if _NAME.fullmatch(name)][: limits.policies]
        for name in _CLIPPED:
            value["subject"][name] = _clip(value["subject"][name], limits.text)
        labels = sorted(self.subject.labels.items())[: limits.labels]
        value["subject"]["labels"] = {_clip(key, limits.text): _clip(label, limits.text) for key, label in labels}
        if not self.subject.src_ip:
            for name in ENDPOINTS:
                del value["subject"][name]
        value["subject"]["argv"] = _clip_all(self.subject.argv, limits.argv)
        for event in value["events"]:
            event["node"] = _clip(event["node"], limits.text)
        for process in value["process_tree"]:
            process["exe"] = _clip(process["exe"], limits.text)
            process["argv"] = _clip_all(process["argv"], limits.tree_argv)
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Finding:
        """The inverse of `to_json`; what it does not know is ignored, so that newer writers can be read.

        Raises:
            CorruptData: A field is missing or has another form.
        """
        try:
            return cls(
                id=str(value["id"]), time=str(value["time"]), severity=str(value["severity"]),
                score=float(value["score"]), detector=str(value["detector"]), title=str(value["title"]),
                key=str(value.get("key", "")), subject=_subject(value["subject"]),
                techniques=tuple(Technique(str(t["id"]), str(t["name"])) for t in value["techniques"]),
                attack_version=str(value.get("attack_version", "")),
                explanation=tuple(map(str, value["explanation"])), confidence=float(value["confidence"]),
                confidence_reasons=tuple(map(str, value.get("confidence_reasons", ()))),
                events=tuple(
                    EventReference(str(e["node"]), int(e["epoch"]), str(e["lane"]), int(e["sequence"]), str(e["event"]))
                    for e in value["events"]
                ),
                process_tree=tuple(
                    Process(int(p["pid"]), str(p["exe"]), tuple(map(str, p["argv"])))
                    for p in value.get("process_tree", ())
                ),
                policies=tuple(map(str, value.get("policies", ()))),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            msg = f"not a finding: {error!r}"
            raise CorruptData(msg) from error

    @classmethod
    def decode(cls, data: bytes) -> Finding:
        """The inverse of `encode`.

        Raises:
            CorruptData: Too large, no JSON, or not a finding.
        """
        if len(data) > _MAX_READ:
            msg = f"a finding of {len(data)} bytes; at most {_MAX_READ} are read"
            raise CorruptData(msg)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            msg = f"not a finding: {error}"
            raise CorruptData(msg) from error
        return cls.from_json(value if isinstance(value, dict) else {})


def finding_id(*, detector: str, version: int, node: str, pid: int, start_ns: int, event_ns: int, key: str) -> str:
    """Id of a finding: the first 32 hex digits of SHA-256 over what happened.

    Args:
        detector: Name of the detector.
        version: Its version: a detector that judges otherwise finds something else.
        node: The node.
        pid: Process id of the subject.
        start_ns: Its start, wall time in ns. Boot id, epoch and sequence stay out: a replay has others.
        event_ns: Time of the event, wall time in ns.
        key: What it is about.
    """
    identity = json.dumps([detector, version, node, pid, start_ns, event_ns, key], separators=(",", ":"))
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _subject(value: dict[str, Any]) -> Subject:
    texts = ("workload", "container_id", "pod_uid", "start_time", "exe", "process_uid")
    return Subject(
        node=str(value["node"]),
        pid=int(value["pid"]),
        src_port=int(value.get("src_port", 0)),
        dst_port=int(value.get("dst_port", 0)),
        argv=tuple(map(str, value["argv"])),
        labels={str(key): str(label) for key, label in value.get("labels", {}).items()},
        **{name: str(value[name]) for name in texts},
        # Findings that were stored by the release before have none of these.
        **{
            name: str(value.get(name, ""))
            for name in (
                "namespace",
                "pod",
                "container",
                "image",
                "owner_kind",
                "owner_name",
                "src_ip",
                "dst_ip",
                "proto",
            )
        },
    )


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + _CUT


def _clip_all(argv: Sequence[str], limit: int) -> list[str]:
    """The first arguments up to `limit` bytes of UTF-8, a terminator each; the one that does not fit is cut and is the last."""
    out: list[str] = []
    left = limit
    for argument in argv:
        size = len(argument.encode("utf-8", "surrogatepass")) + 1
        if size > left:
            out.append(argument.encode("utf-8", "surrogatepass")[: max(left - 4, 0)].decode("utf-8", "ignore") + _CUT)
            break
        out.append(argument)
        left -= size
    return out
