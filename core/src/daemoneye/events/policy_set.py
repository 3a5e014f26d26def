"""policy_set: sets of policies that rows of a batch belong to. Context rows, one for each set that a row names by its number.

Rows about packets belong to policies by what these ask for (their `captureFilter`, their switches), not by their processes alone: two rows of one
process may belong to different policies. Rows that belong by their process have `pod_identity`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from daemoneye.events.codec import Section, section_of
from daemoneye.events.schema import Field, Record

POLICY_SET = Record(
    id=67,
    name="policy_set",
    lane="context",
    doc="A set of policies that rows about packets of the batch belong to. On one machine there are none.",
    fields=(
        Field(1, "policy_set", "u64", "Number by which rows name it, made of the names; never 0."),
        Field(2, "policies", "heap32", "Names of the policies, each ended by a zero byte.", text="argv"),
        Field(3, "size", "u32", "How many they are.", unit="policies"),
    ),
)


def name_text(name: str) -> bytes:
    """A policy's name as sets hold it."""
    return name.encode("utf-8", "backslashreplace")


def set_text(names: Iterable[str]) -> bytes:
    """Names of a set, each ended by a zero byte."""
    return b"".join(name_text(name) + b"\0" for name in names)


def set_number(names: bytes) -> int:
    """Number of a set of names, each ended by a zero byte: 8 bytes of BLAKE2b; 0 of none."""
    return int.from_bytes(hashlib.blake2b(names, digest_size=8).digest(), "little") if names else 0


def sets_section(sets: Mapping[int, bytes]) -> Section:
    """Rows for sets by their numbers."""
    values: dict[str, object] = {
        "policy_set": np.array([*sets], np.uint64),
        "policies": [*sets.values()],
        "size": [names.count(b"\0") for names in sets.values()],
    }
    return section_of(POLICY_SET, values, len(sets), context=True)


def sets_of(section: Section | None) -> dict[int, bytes]:
    """Names of each set by its number; none without a section."""
    if section is None:
        return {}
    return dict(zip(section.rows["policy_set"].tolist(), section.values("policies"), strict=True))
