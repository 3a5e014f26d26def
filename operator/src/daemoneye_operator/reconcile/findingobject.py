"""A finding as an object of the API.

Responsible for the object's name, namespace, form and size; not for how many there are (:mod:`daemoneye_operator.reconcile.findings`).
Texts of watched processes are escaped here once, so that no reader of the object can be attacked through them.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from daemoneye.api.v1alpha1.common import API_VERSION
from daemoneye.escape import escape
from daemoneye.findings import Finding, Process, Subject

MAX_BYTES: Final = 14 * 1024
"""Of the 16 KiB that an object may have the rest is for its status and what the API server adds."""
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CUT: Final = "…"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Where an object is."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class _Limits:
    """Bytes in JSON of a text, of all arguments of the subject and of each ancestor; items of a list; processes; labels; policies."""

    text: int = 1024
    argv: int = 4096
    tree_argv: int = 256
    items: int = 32
    tree: int = 16
    labels: int = 128
    policies: int = 64


# The last one fits whatever the texts are.
_NARROWER: Final = (
    _Limits(tree_argv=64, labels=32),
    _Limits(text=512, argv=2048, tree_argv=0, items=16, tree=8, labels=16),
    _Limits(text=256, argv=1024, tree_argv=0, items=8, tree=4, labels=8, policies=32),
    _Limits(text=128, argv=256, tree_argv=0, items=4, tree=2, labels=0, policies=16),
    _Limits(text=32, argv=32, tree_argv=0, items=2, tree=1, labels=0, policies=8),
)


def reference(spec: Mapping[str, Any], release_namespace: str) -> Ref:
    """Where the Finding with this spec lives: findings of one detector, workload, image and key share one object."""
    subject = spec["subject"]
    inside = subject["pod"] and _LABEL.fullmatch(subject["namespace"])
    identity = json.dumps([spec["detector"], subject["workload"], subject["image"], spec["key"]], separators=(",", ":"))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    detector = re.sub(r"[^a-z0-9]+", "-", spec["detector"].lower()).strip("-")[:48].strip("-") or "finding"
    return Ref(subject["namespace"] if inside else release_namespace, f"{detector}-{digest}")


def spec_of(finding: Finding) -> dict[str, Any]:
    """The spec of a finding's object, at most MAX_BYTES as JSON: what does not fit loses ancestors' arguments first, then ever more texts."""
    spec = _spec(finding, _Limits())
    for limits in _NARROWER:
        if len(json.dumps(spec)) <= MAX_BYTES:
            break
        spec = _spec(finding, limits)
    return spec


def build(ref: Ref, spec: Mapping[str, Any], owner_labels: Mapping[str, str]) -> dict[str, Any]:
    """The object, without its status."""
    labels = {
        **owner_labels,
        "daemoneye.io/detector": _label(spec["detector"]),
        "daemoneye.io/severity": spec["severity"],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "Finding",
        "metadata": {"name": ref.name, "namespace": ref.namespace, "labels": labels},
        "spec": dict(spec),
    }


def _spec(finding: Finding, limits: _Limits) -> dict[str, Any]:
    subject = finding.subject
    # Names have bounds of their own, those of the API; what aggregation rests on is cut the same whatever else is.
    return {
        "detector": _text(finding.detector, 63),
        "severity": finding.severity,
        "score": finding.score,
        "title": _text(finding.title, limits.text),
        "key": _identity(finding.key, 512),
        "subject": {
            "node": _text(subject.node, 253),
            "namespace": _text(subject.namespace, 63),
            "pod": _text(subject.pod, 253),
            "podUID": _text(subject.pod_uid, 64),
            "container": _text(subject.container, 253),
            "containerID": _text(subject.container_id, 128),
            "image": _identity(subject.image, 512),
            "workload": _identity(subject.workload, 512),
            "labels": {
                _text(key, 317): _text(value, 63) for key, value in sorted(subject.labels.items())[: limits.labels]
            },
            "startTime": _text(subject.start_time, 40),
            **_endpoints(subject),
            **_process(subject.pid, subject.exe, subject.argv, limits.text, limits.argv),
        },
        "techniques": [
            {"id": _text(technique.id, 16), "name": _text(technique.name, 128)}
            for technique in finding.techniques[: limits.items]
        ],
        "attackVersion": _text(finding.attack_version, 16),
        "explanation": [_text(sentence, limits.text) for sentence in finding.explanation[: limits.items]],
        "confidence": finding.confidence,
        "confidenceReasons": [_text(sentence, limits.text) for sentence in finding.confidence_reasons[: limits.items]],
        "policies": [_text(name, 253) for name in finding.policies[: limits.policies]],
        "processTree": [_ancestor(process, limits) for process in finding.process_tree[-limits.tree :]],
    }


def _ancestor(process: Process, limits: _Limits) -> dict[str, Any]:
    return _process(process.pid, process.exe, process.argv, limits.text, limits.tree_argv)


def _endpoints(subject: Subject) -> dict[str, Any]:
    """Between whom it happened; nothing where it is not about the network."""
    if not subject.src_ip:
        return {}
    return {
        "srcIP": _text(subject.src_ip, 64),
        "srcPort": min(max(subject.src_port, 0), 65_535),
        "dstIP": _text(subject.dst_ip, 64),
        "dstPort": min(max(subject.dst_port, 0), 65_535),
        "proto": _text(subject.proto, 16),
    }


def _process(pid: int, exe: str, argv: Iterable[str], text: int, room: int) -> dict[str, Any]:
    shown: list[str] = []
    for argument in argv:
        if room <= 0:
            break
        shown.append(_text(argument, room))
        # What JSON puts around it counts, too: ten thousand empty arguments are not nothing.
        room -= len(shown[-1]) + 4
    return {"pid": max(pid, 0), "exe": _text(exe, text), "argv": shown}


def _text(text: str, limit: int, end: str = _CUT) -> str:
    """At most `limit` bytes of the text as JSON, escaped."""
    if len(text) <= limit // 2 and text.isascii() and text.isprintable():
        return text
    # Cut first: escaping a megabyte to keep a line of it would be a node's way to keep the operator busy.
    shown = escape(text[: limit + 1])
    costs = list(accumulate(map(_cost, shown)))
    if not costs or (costs[-1] <= limit and len(text) <= limit):
        return shown
    return shown[: bisect_right(costs, limit - sum(map(_cost, end)))] + end


def _cost(character: str) -> int:
    """Bytes of a character that needs no further escape, as JSON in ASCII has it."""
    if character.isascii():
        return 2 if character in '"\\' else 1
    return 6 if character <= "\uffff" else 12


def _identity(text: str, limit: int) -> str:
    """The same for what aggregation rests on: two that are cut stay two."""
    return _text(text, limit, f"{_CUT}{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}")


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.")
