"""Events as JSON objects: the form that people and other tools read (`-o json --events`), and the way back.

One Python dict an event: for what is shown or exported singly, never on the way from the kernel to the detectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from daemoneye.envelope import Batch
from daemoneye.escape import decode
from daemoneye.events.ancestry import Images, identity_rows
from daemoneye.events.base import BASE
from daemoneye.events.codec import Section
from daemoneye.events.flags import Flag, flag_names
from daemoneye.events.netform import endpoints_json, word_of
from daemoneye.events.network import OF_PEER
from daemoneye.events.policy_set import sets_of
from daemoneye.events.schema import Field

_STATES = ("unknown", "partial", "resolved")
_HIDDEN = {"event", "flags", "comm", "policy_set"}
_NAMELESS = Flag.SNI_ABSENT | Flag.SNI_UNSEEN
_OF_PROCESS = {f.name for f in BASE} - {"time", "event", "flags"}
"""What a row says only of a process; one of the network may know none."""


def rfc3339(wall_ns: np.ndarray) -> list[str]:
    """Wall times (int64 ns since 1970) as RFC 3339 with nanoseconds, UTC."""
    return [f"{s}Z" for s in np.datetime_as_string(wall_ns.astype("datetime64[ns]"), unit="ns").tolist()]


def split_argv(raw: bytes) -> list[str]:
    """Arguments from NUL-terminated bytes."""
    return [decode(a) for a in raw.removesuffix(b"\0").split(b"\0")] if raw else []


def events_json(batch: Batch) -> Iterator[dict[str, Any]]:
    """Every event of a batch, in order of time: the command line's contract for `kind: event`."""
    rows: list[tuple[int, dict[str, Any]]] = []
    images = Images.of_batch(batch)
    texts = _Texts(images.section, batch) if images else None
    for section in batch.sections:
        if section.context or section.record.name == "loss":
            continue
        rows.extend(zip(section.rows["time"].tolist(), _section_json(batch, section, images, texts), strict=True))
    rows.sort(key=lambda pair: pair[0])
    for _, row in rows:
        yield row


def losses_json(batch: Batch) -> Iterator[dict[str, Any]]:
    """Every loss row of a batch: `kind: loss`."""
    section = batch.section("loss")
    if section is None:
        return
    names = {f.name: section.values(f.name) for f in section.record.heap_fields}
    until, since = (rfc3339(batch.wall_ns(section.rows[c])) for c in ("time", "since"))
    for i, row in enumerate(section.rows):
        first = int(row["first_sequence"])
        known = first != np.iinfo(np.uint64).max
        yield {
            "kind": "loss", "node": batch.envelope.node, "time": until[i], "since": since[i], "count": int(row["count"]),
            **{name: decode(values[i]) for name, values in names.items()},
            "first_sequence": first if known else None, "epoch": int(row["epoch"]) if known else None,
        }  # fmt: skip


class _Texts:
    """Descriptions of the images of one batch, made once for each image that is asked for."""

    def __init__(self, section: Section, batch: Batch) -> None:
        self._rows = section.rows
        self._exe = section.values("exe")
        self._argv = section.values("argv")
        self._start = rfc3339(batch.wall_ns(section.rows["start_time"]))
        self._made: dict[int, dict[str, Any]] = {}

    def __call__(self, index: int) -> dict[str, Any]:
        if index not in self._made:
            row = self._rows[index]
            self._made[index] = {
                "pid": int(row["pid"]), "start_time": self._start[index], "exe": decode(self._exe[index]),
                "argv": split_argv(self._argv[index]), "uid": int(row["uid"]),
            }  # fmt: skip
        return self._made[index]


def _section_json(
    batch: Batch, section: Section, images: Images | None, texts: _Texts | None
) -> Iterator[dict[str, Any]]:
    rows = section.rows
    about = batch.envelope
    # With the moment of boot a reader gets the rows' own clock back, and with it the process keys.
    origin = {"node": about.node, "boot_id": about.boot_id, "boot_time": rfc3339(np.array([about.clock_offset_ns]))[0]}
    moments = [f.name for f in section.record.fields if f.moment and f.name not in OF_PEER]
    times = {c: rfc3339(batch.wall_ns(rows[c])) for c in moments}
    heap = {f.name: [_text(f, value) for value in section.values(f.name)] for f in section.record.heap_fields}
    keys = {f.name for f in section.record.fields if f.key_of and f.name not in OF_PEER}
    numbers = {
        f.name: rows[f.name].tolist()
        for f in section.record.fields
        if not (f.heap or f.array or f.moment or f.name in _HIDDEN or f.name in OF_PEER)
    }
    # 64-bit keys as hex digits: JSON readers that hold numbers as doubles would round them.
    numbers |= {n: [f"{v:016x}" for v in numbers[n]] for n in keys}
    chains = images.ancestors(rows["parent_uid"], rows["time"]) if images else np.full((len(rows), 1), -1)
    # Rows without an image show the one that the process runs; a child that was just forked still runs its parent's.
    key = "parent_uid" if section.record.name == "process_fork" else "process_uid"
    own = images.find(rows[key], rows["time"]) if images and "exe" not in heap else np.full(len(rows), -1)
    identity = _identities(batch, rows)
    flags = rows["flags"].tolist()
    comm = rows["comm"].tolist() if "comm" in (rows.dtype.names or ()) else None
    endpoints = endpoints_json(rows) if section.record.of_network else None
    peers = _peers(batch, rows, images, texts) if "peer_pid" in (rows.dtype.names or ()) else None
    policies = _policies(batch, rows)
    for i in range(len(rows)):
        event: dict[str, Any] = {"kind": "event", "event": section.record.name, **origin}
        event |= {name: values[i] for name, values in times.items()}
        event |= {name: values[i] for name, values in numbers.items()}
        event |= {name: texts_of[i] for name, texts_of in heap.items()}
        if comm is not None:
            event["comm"] = decode(comm[i])
            event["argv_truncated"] = bool(flags[i] & Flag.ARGV_TRUNCATED)
        if texts and own[i] >= 0:
            image = texts(int(own[i]))
            event["exe"], event["argv"] = image["exe"], image["argv"]
        event["flags"] = flag_names(flags[i])
        if endpoints:
            event |= endpoints[i]
            if flags[i] & _NAMELESS and not event.get("sni"):
                event["sni"] = None
            if peers and peers[i]:
                event["peer"] = peers[i]
            if not rows["pid"][i]:
                hidden = _OF_PROCESS if peers is None else _OF_PROCESS | {"direction"}
                yield {name: value for name, value in event.items() if name not in hidden} | policies[i]
                continue
        event |= identity[i] | policies[i]
        chain = [texts(int(k)) for k in chains[i] if k >= 0] if texts else []
        event["parent"] = chain[0] if chain else {"pid": int(rows["ppid"][i]), "exe": "", "argv": []}
        event["ancestors"] = chain[1:]
        yield event


def _text(field: Field, raw: bytes) -> Any:
    if field.text == "argv":
        return split_argv(raw)
    if field.text == "numbers":
        return [int(number) if number.isdecimal() else None for number in split_argv(raw)]
    return decode(raw)


def _peers(batch: Batch, rows: np.ndarray, images: Images | None, texts: _Texts | None) -> list[dict[str, Any] | None]:
    """The other side's process of each row, as far as it is known; None where it is not."""
    out: list[dict[str, Any] | None] = [None] * len(rows)
    known = np.flatnonzero(rows["peer_pid"])
    rows = rows[known]
    at = images.find(rows["peer_uid"], rows["time"]) if images else np.full(len(rows), -1)
    start = rfc3339(batch.wall_ns(rows["peer_start_time"]))
    identity = _identities(batch, rows, "peer_")
    for i, place in enumerate(known.tolist()):
        row = rows[i]
        out[place] = {
            "process_uid": f"{int(row['peer_uid']):016x}", "pid": int(row["peer_pid"]), "start_time": start[i],
            "cgroup_id": int(row["peer_cgroup_id"]), "cgroup_v1_id": int(row["peer_cgroup_v1_id"]),
            **(texts(int(at[i])) if texts and at[i] >= 0 else {}),
            "attribution": word_of("attribution", int(row["peer_attribution"])), **identity[i],
        }  # fmt: skip
    return out


def _policies(batch: Batch, rows: np.ndarray) -> list[dict[str, Any]]:
    """The policies of rows that belong to some of their own, whosever their processes are; nothing of others."""
    sets = {
        number: {"policies": split_argv(names)}
        for number, names in sets_of(batch.section("policy_set", context=True)).items()
    }
    numbers = rows["policy_set"].tolist() if "policy_set" in (rows.dtype.names or ()) else [0] * len(rows)
    return [sets.get(number, {}) for number in numbers]


def _identities(batch: Batch, rows: np.ndarray, side: str = "") -> list[dict[str, Any]]:
    """What is known of each row's cgroup, and in a cluster of its pod; `side` is that of `cgroup_pairs`."""
    unknown = {"cgroup": "", "container_id": "", "pod_uid": "", "workload": "", "identity": "unknown"}
    cgroups, pods = _cgroups(batch), _pods(batch)
    places = zip(
        identity_rows(batch, rows, side=side).tolist(), identity_rows(batch, rows, "pod_identity", side=side).tolist(), strict=True
    )  # fmt: skip
    return [{**(cgroups[c] if c >= 0 else unknown), **(pods[p] if p >= 0 else {})} for c, p in places]


def _cgroups(batch: Batch) -> list[dict[str, Any]]:
    """Each row of `cgroup_identity`."""
    section = batch.section("cgroup_identity", context=True)
    if section is None:
        return []
    names = {f.name: [decode(v) for v in section.values(f.name)] for f in section.record.heap_fields}
    return [
        {
            "cgroup": names["path"][i] if names["path"][i] not in {"", "/"} else names["path_v1"][i] or names["path"][i],
            "container_id": names["container_id"][i], "pod_uid": names["pod_uid"][i], "workload": names["workload"][i],
            "identity": _STATES[min(int(section.rows["state"][i]), 2)],
        }
        for i in range(len(section.rows))
    ]  # fmt: skip


def _pods(batch: Batch) -> list[dict[str, Any]]:
    """What Kubernetes knows of each row of `pod_identity`; of cgroups outside of pods their policies alone."""
    section = batch.section("pod_identity", context=True)
    if section is None:
        return []
    lists = {name: [split_argv(raw) for raw in section.values(name)] for name in ("policies", "labels")}
    names = [f.name for f in section.record.heap_fields if f.name not in lists]
    texts = {name: [decode(raw) for raw in section.values(name)] for name in names}
    out = []
    for i, policies in enumerate(lists["policies"]):
        pod: dict[str, Any] = {"policies": policies}
        if texts["pod"][i]:
            pod |= {name: texts[name][i] for name in names}
            pod["labels"] = dict(label.split("=", 1) for label in lists["labels"][i] if "=" in label)
        out.append(pod)
    return out
