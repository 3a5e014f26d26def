"""What the broker keeps: every stream that DaemonEye declares, with its limits.

Responsible for the declaration alone, in plain numbers; creating the streams on a broker is the business of whoever
administers it (``daemoneye run`` on one machine, the operator in a cluster).

A stream's ``max_bytes`` is *reserved* by nats-server when the stream is made, so the sum over all streams
(:func:`reserved_bytes`) has to fit the broker's ``max_file_store``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from daemoneye import subjects

if TYPE_CHECKING:
    from collections.abc import Iterable

_MIB: Final = 1 << 20
_DAY_S: Final = 86_400.0
# Longer than a broker or sensor takes to come back; what is replayed later still is skipped by its readers.
_DUPLICATE_WINDOW_S: Final = 600.0
# The server remembers each message's id that long, in half a kilobyte: at a thousand nodes' rate ten minutes would be a gigabyte.
_EVENTS_WINDOW_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream: sizes in bytes, times in seconds.

    ``max_age`` 0 means that nothing expires. ``max_per_subject`` and ``max_msg_size`` -1 mean no limit of the stream's
    own. ``discard`` ``old`` drops the oldest message when full, ``new`` refuses the newest.
    """

    name: str
    subjects: tuple[str, ...]
    max_bytes: int
    max_age: float
    duplicate_window: float = _DUPLICATE_WINDOW_S
    max_msg_size: int = -1
    max_per_subject: int = -1
    discard: Literal["old", "new"] = "old"
    storage: Literal["file"] = "file"
    allow_direct: bool = True
    allow_rollup: bool = False
    description: str = ""


def declared(
    shards: int = 1,
    parts: int = 1,
    *,
    events_max_bytes: int = 1024 * _MIB,
    events_max_age: float = 3 * _DAY_S,
    findings_max_bytes: int = 128 * _MIB,
    findings_max_age: float = 90 * _DAY_S,
    max_msg_size: int = 8 * _MIB,
) -> tuple[Stream, ...]:
    """Every stream of an installation with ``shards`` event streams, each of which has ``events_max_bytes``, and ``parts`` that divide the workloads."""
    bucket = subjects.ANALYTICS_BUCKET
    events = tuple(
        Stream(
            name=subjects.EVENTS(shard),
            subjects=(f"{subjects.PREFIX}.events.{shard}.>",),
            max_bytes=events_max_bytes,
            max_age=events_max_age,
            duplicate_window=_EVENTS_WINDOW_S,
            max_msg_size=max_msg_size,
            description="Batches of events, as the sensors made them",
        )
        for shard in range(shards)
    )
    return (
        *events,
        Stream(
            name=subjects.FINDINGS,
            subjects=(subjects.ALL_FINDINGS,),
            max_bytes=findings_max_bytes,
            max_age=findings_max_age,
            description="Explained findings",
        ),
        Stream(
            name=subjects.SCORES,
            subjects=(f"{subjects.PREFIX}.scores.>",),
            max_bytes=32 * _MIB,
            max_age=7 * _DAY_S,
            description="Scores of workloads' windows",
        ),
        Stream(
            name=subjects.SCHEMAS,
            subjects=(f"{subjects.PREFIX}.schemas.>",),
            max_bytes=8 * _MIB,
            max_age=0,
            # A descriptor is named by its own hash: a second copy replaces the first, and none ever expires.
            max_per_subject=1,
            description="Descriptors of every schema that a batch has named",
        ),
        Stream(
            # The layout of a JetStream object store, so that analytics finds its bucket and needs no right to make one.
            name=f"OBJ_{bucket}",
            subjects=(f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"),
            max_bytes=checkpoints_max_bytes(parts),
            max_age=0,
            duplicate_window=120.0,
            # A full store refuses the new checkpoint; it must not eat chunks of the one in use.
            discard="new",
            allow_rollup=True,
            description="Checkpoints of analytics",
        ),
    )


def checkpoints_max_bytes(parts: int) -> int:
    """Bytes that the checkpoints of so many parts may take; with several, one more is what the first left to the others."""
    return 128 * _MIB * (parts + (parts > 1))


def buckets(
    *, nodes_max_bytes: int = 256 * _MIB, configs_max_bytes: int = 32 * _MIB, max_value: int = _MIB
) -> tuple[Stream, ...]:
    """The KV buckets of a cluster: one value a key, read by direct get, followed by subscription."""
    sizes = {
        subjects.NODES_BUCKET: nodes_max_bytes,
        subjects.CONFIGS_BUCKET: configs_max_bytes,
        subjects.LEASES_BUCKET: _MIB,
    }
    descriptions = {
        subjects.NODES_BUCKET: "Each node's configuration by name, and its pods",
        subjects.CONFIGS_BUCKET: "Configurations by hash",
        subjects.LEASES_BUCKET: "Who of several replicas does what only one may do",
    }
    return tuple(
        Stream(
            # The layout of a JetStream KV bucket.
            name=f"KV_{bucket}",
            subjects=(f"$KV.{bucket}.>",),
            max_bytes=size,
            max_age=0,
            duplicate_window=120.0,
            max_msg_size=max_value,
            max_per_subject=1,
            # A full bucket refuses the newest: it must not forget what other nodes run.
            discard="new",
            allow_rollup=True,
            description=descriptions[bucket],
        )
        for bucket, size in sizes.items()
    )


def evidence(*, max_bytes: int = 256 * _MIB, max_age: float = 7 * _DAY_S) -> Stream:
    """The object store of evidence, where an installation keeps any."""
    bucket = subjects.EVIDENCE_BUCKET
    return Stream(
        name=f"OBJ_{bucket}",
        subjects=(f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"),
        max_bytes=max_bytes,
        max_age=max_age,
        duplicate_window=120.0,
        max_msg_size=_MIB,
        # What is new matters more; an object that has lost chunks is found out by whoever reads it.
        allow_rollup=True,
        description="Packets that were kept because of findings",
    )


def reserved_bytes(streams: Iterable[Stream]) -> int:
    """Bytes that the broker sets aside for ``streams``."""
    return sum(stream.max_bytes for stream in streams)
