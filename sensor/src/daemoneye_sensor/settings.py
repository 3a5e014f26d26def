"""The sensor's configuration: one JSON file that `daemoneye run` or the operator writes. No policy logic: that was merged before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daemoneye.errors import ConfigError
from daemoneye.events.registry import EVENTS
from daemoneye_sensor.connection import Connection
from daemoneye_sensor.programs import RingSizes

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What one sensor is told.

    Attributes:
        node: Name of the node.
        cluster: Id of the cluster, `local` without Kubernetes.
        instance: Name of this installation on the node: pins of two never meet.
        state_dir: Directory of the spool.
        bpf_dir: Folder of the program sources.
        source: Name of the source.
        replay_path: Recording to read, for the source `replay`.
        connection: How to reach the broker.
        shard: Shard of the events' stream.
        spool_bytes: Disk budget of the spool.
        rings: Ring sizes.
        events: Names of the events that are wanted.
        status_interval_s: Seconds between heartbeats.
        flush_interval_s: Seconds between two looks at the source.
        keep_programs: Leave the programs pinned at the end, for a successor.
    """

    node: str
    cluster: str
    instance: str
    state_dir: Path
    bpf_dir: Path
    source: str
    replay_path: Path | None
    connection: Connection
    shard: int
    spool_bytes: int
    rings: RingSizes
    events: tuple[str, ...]
    status_interval_s: float
    flush_interval_s: float
    keep_programs: bool


def load(path: Path) -> Settings:
    """Settings from a file.

    Raises:
        ConfigError: The file cannot be read or lacks something; the message names file and key.
    """
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise ConfigError(msg) from error
    except ValueError as error:
        msg = f"{path}: not JSON: {error}"
        raise ConfigError(msg) from error
    try:
        return _settings(raw)
    except KeyError as error:
        msg = f"{path}: key {error.args[0]!r} is missing"
        raise ConfigError(msg) from error
    except (TypeError, ValueError, AttributeError) as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from error


def _settings(raw: Mapping[str, Any]) -> Settings:
    nats, tls, rings = raw["nats"], raw["nats"].get("tls") or {}, raw.get("rings", {})
    connection = Connection(
        urls=(nats["url"],), user=nats.get("user", ""), password=nats.get("password", ""), inbox_prefix=nats.get("inbox_prefix", "_INBOX"),
        password_file=_path(nats.get("password_file")), tls_ca=_path(tls.get("ca")), tls_cert=_path(tls.get("cert")), tls_key=_path(tls.get("key")),
    )  # fmt: skip
    return Settings(
        node=str(raw["node"]), cluster=str(raw.get("cluster", "local")), instance=_name(str(raw.get("instance", "default"))),
        state_dir=Path(raw["state_dir"]), bpf_dir=Path(raw.get("bpf_dir") or "bpf"), source=str(raw.get("source", "ebpf")),
        replay_path=_path(raw.get("replay_path")), connection=connection, shard=int(raw.get("shard", 0)),
        spool_bytes=int(raw.get("spool", {}).get("max_bytes", 256 * _MIB)), rings=RingSizes(**rings), events=_events(raw.get("kernel_monitoring") or {}),
        status_interval_s=float(raw.get("status_interval_s", 10)), flush_interval_s=float(raw.get("flush_interval_s", 0.3)),
        keep_programs=bool(raw.get("keep_programs", False)),
    )  # fmt: skip


def _events(kernel: Mapping[str, Any]) -> tuple[str, ...]:
    if not kernel.get("enable_ebpf", True):
        return ()
    switches = kernel.get("events") or {}
    return tuple(name for name in EVENTS if switches.get(name, True))


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _name(value: str) -> str:
    if not value or not all(c.isalnum() or c in "-_" for c in value):
        msg = f"instance {value!r}: letters, digits, - and _ only (it names a directory in bpffs)"
        raise ValueError(msg)
    return value
