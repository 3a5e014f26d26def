"""Names on the broker: subjects, streams and buckets, and the escaping of a node's name within a subject.

Responsible for every name that two processes must agree on; not for what the streams hold or how long
(:mod:`daemoneye.streams`) nor for talking to a broker.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from daemoneye.errors import ConfigError

PREFIX: Final = "daemoneye.v1"
ALL_EVENTS: Final = f"{PREFIX}.events.>"
ALL_FINDINGS: Final = f"{PREFIX}.findings.>"
# Append-only: a lane's place here is its id in the spool's segments.
LANES: Final = ("urgent", "bulk", "rollup", "loss")
SEVERITIES: Final = ("informational", "low", "medium", "high", "critical")

FINDINGS: Final = "DAEMONEYE_FINDINGS"
SCORES: Final = "DAEMONEYE_SCORES"
SCHEMAS: Final = "DAEMONEYE_SCHEMAS"
ANALYTICS_BUCKET: Final = "daemoneye_analytics"
NODES_BUCKET: Final = "daemoneye_nodes"
"""KV bucket of what concerns one node: its configuration's name, its pods. Keys begin with the escaped node."""
CONFIGS_BUCKET: Final = "daemoneye_configs"
"""KV bucket of configurations by their hash, and of analytics' own under ANALYTICS_CONFIG."""
ANALYTICS_CONFIG: Final = "analytics"
LEASES_BUCKET: Final = "daemoneye_leases"
"""KV bucket of who of several replicas does what only one may do: analytics' of shard N under ``analytics.N``."""
EVIDENCE_BUCKET: Final = "daemoneye_evidence"
"""Object store of packets that were kept because of a finding. Chunks lie under the escaped node, so that a sensor writes its own only."""

_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED: Final = re.compile(rb"_([0-9a-f]{2})")
_WELL_FORMED: Final = re.compile(r"(?:[A-Za-z0-9-]|_[0-9a-f]{2})+")


def escape_node(name: str) -> str:
    """Turn a node's name into one subject token, which also serves as a KV key's beginning and a file's name.

    ASCII letters, digits and ``-`` stay; every other byte of the name's UTF-8 form, ``_`` itself included, becomes
    ``_xx`` (two lower-case hexadecimal digits). So different names never collide, nothing in a name can widen a
    subject (``.``, ``*``, ``>``, blanks, controls), and :func:`unescape_node` gives the name back.

    >>> escape_node("ip-10-0-0-1.ec2.internal")
    'ip-10-0-0-1_2eec2_2einternal'

    Raises :class:`ConfigError` for an empty name, for which no token exists.
    """
    if not name:
        message = "a node's name must not be empty"
        raise ConfigError(message)
    raw = name.encode("utf-8", "surrogateescape")
    return _UNSAFE.sub(lambda match: b"_%02x" % match[0][0], raw).decode("ascii")


def unescape_node(token: str) -> str:
    """Give back the name that :func:`escape_node` made ``token`` from.

    Raises :class:`ConfigError` if ``token`` is not something that it makes.
    """
    name = ""
    if _WELL_FORMED.fullmatch(token):
        raw = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), token.encode("ascii"))
        name = raw.decode("utf-8", "surrogateescape")
    # A token with a needless escape (`_61` for `a`) must not become a second spelling of the same node.
    if not name or escape_node(name) != token:
        message = f"{token!r} is not an escaped node name"
        raise ConfigError(message)
    return name


def shard_of(node: str, shards: int) -> int:
    """Which of several streams the events of ``node`` (its plain name) go to, by a hash of the name: everybody knows it without asking."""
    digest = hashlib.blake2b(node.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def events(shard: int, node: str, lane: str) -> str:
    """Subject of the event batches of ``node`` (its plain name) in ``lane``.

    Raises :class:`ConfigError` for a lane that is not in LANES.
    """
    if lane not in LANES:
        message = f"lane {lane!r} is none of {', '.join(LANES)}"
        raise ConfigError(message)
    return f"{PREFIX}.events.{shard}.{escape_node(node)}.{lane}"


def is_events_of(subject: str, node: str, lane: str) -> bool:
    """Whether `subject` is one of the event batches of ``node`` (its plain name) in ``lane``, in whatever shard; a newer release may have more lanes.

    The broker lets a node write under its own name only, whereas a batch may hold any: readers hold the one against the other.
    """
    return bool(node) and subject.split(".")[4:] == [escape_node(node), lane]


def findings(severity: str) -> str:
    """Subject of the findings of one severity; raises :class:`ConfigError` for one that is not in SEVERITIES."""
    if severity not in SEVERITIES:
        message = f"severity {severity!r} is none of {', '.join(SEVERITIES)}"
        raise ConfigError(message)
    return f"{PREFIX}.findings.{severity}"


def scores(shard: int) -> str:
    """Subject of the scores of windows that the analytics of one shard judged: JSON objects, one a line."""
    return f"{PREFIX}.scores.{shard}"


def schemas(schema_hash: str) -> str:
    """Subject of the descriptor of the schema with this hash; raises :class:`ConfigError` if it is not hexadecimal."""
    if not re.fullmatch(r"[0-9a-f]+", schema_hash):
        message = f"{schema_hash!r} is not a schema's hash"
        raise ConfigError(message)
    return f"{PREFIX}.schemas.{schema_hash}"


def status(node: str) -> str:
    """Subject of the plain NATS heartbeats of ``node`` (its plain name)."""
    return f"{PREFIX}.status.{escape_node(node)}"


def component(name: str) -> str:
    """Subject of the heartbeats of a component that is no node's, such as ``analytics``."""
    return f"{PREFIX}.component.{escape_node(name)}"


def node_config(node: str) -> str:
    """Key in NODES_BUCKET of the pointer to the configuration of ``node`` (its plain name)."""
    return f"{escape_node(node)}.config"


def node_pod(node: str, cgroup_uid: str) -> str:
    """Key in NODES_BUCKET of one pod of ``node`` (its plain name)."""
    return f"{escape_node(node)}.pod.{cgroup_uid}"


def evidence_arm(node: str) -> str:
    """Subject on which analytics asks ``node`` (its plain name) to keep packets."""
    return f"{PREFIX}.evidence.arm.{escape_node(node)}"


def evidence_kept(node: str) -> str:
    """Subject on which ``node`` (its plain name) says what it kept."""
    return f"{PREFIX}.evidence.kept.{escape_node(node)}"


def evidence_answer(node: str) -> str:
    """Subject on which analytics answers that: no reply, whose subject whoever asks could choose."""
    return f"{PREFIX}.evidence.answer.{escape_node(node)}"


def evidence_chunks(node: str, upload: str) -> str:
    """Subject of the chunks of one upload of ``node`` (its plain name)."""
    return f"$O.{EVIDENCE_BUCKET}.C.{escape_node(node)}.{upload}"


def evidence_entry(finding: str) -> str:
    """Subject of what the bucket says of a finding: where object stores have an object's information."""
    return f"$O.{EVIDENCE_BUCKET}.M.{base64.urlsafe_b64encode(finding.encode()).decode()}"


def key_value(bucket: str, key: str) -> str:
    """Subject on which a value of a KV bucket is put: whoever subscribes to it sees changes without any right to JetStream's API."""
    return f"$KV.{bucket}.{key}"


def direct_get(bucket: str, key: str) -> str:
    """Subject of the request that reads a KV bucket's current value (JetStream's direct get by subject)."""
    return f"$JS.API.DIRECT.GET.KV_{bucket}.{key_value(bucket, key)}"


def EVENTS(shard: int) -> str:  # noqa: N802 - a stream's name like FINDINGS and SCHEMAS, one for each shard
    """Name of the stream that keeps the event batches of one shard."""
    return f"DAEMONEYE_EVENTS_{shard}"
