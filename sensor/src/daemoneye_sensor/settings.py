"""The sensor's configuration: one JSON file that `daemoneye run` or the operator writes. No policy logic: that was merged before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from daemoneye import subjects
from daemoneye.broker.access import Access
from daemoneye.errors import ConfigError
from daemoneye.events.registry import KERNEL_EVENTS
from daemoneye_sensor.programs import RingSizes

FROM_FILE: Final = "file"
FROM_BROKER: Final = "broker"
_MIB: Final = 1 << 20
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Settings:
    """What one sensor is told at its start.

    Attributes:
        node: Name of the node.
        cluster: Id of the cluster, `local` without Kubernetes.
        instance: Name of this installation on the node: pins of two never meet.
        state_dir: Directory of the spool, and of the last good configuration.
        bpf_dir: Folder of the program sources.
        source: Name of the source.
        replay_path: File to read, for the sources `replay` and `pcap`.
        access: How to reach the broker.
        shard: Which of the event streams takes the node's: it follows from its name and their number, `shards`.
        spool_bytes: Disk budget of the spool.
        rings: Ring sizes.
        configuration: `file`: what is wanted stands in this file. `broker`: the broker says it, and may say something else at any time.
        events: Names of the events that are wanted, with `file`.
        runtime_tasks: The container runtime's task directory, where names of containers are read; None: they are not.
        status_interval_s: Seconds between heartbeats.
        flush_interval_s: Seconds between two looks at the source.
        keep_programs: Leave the programs pinned at the end, for a successor.
        health_port: Port of /healthz, /readyz and /metrics, 0 for none.
        network: What is asked of packet capture, with `file`: a section `network_monitoring`.
        packet_capture: Whether this process may capture packets at all; if not, nobody gave it the rights.
        capture_netns: The network namespace whose interfaces are meant; None: its own.
    """

    node: str
    cluster: str
    instance: str
    state_dir: Path
    bpf_dir: Path
    source: str
    replay_path: Path | None
    access: Access
    shard: int
    spool_bytes: int
    rings: RingSizes
    configuration: str
    events: tuple[str, ...]
    runtime_tasks: Path | None
    status_interval_s: float
    flush_interval_s: float
    keep_programs: bool
    health_port: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    packet_capture: bool = True
    capture_netns: Path | None = None


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
        return _settings(raw, Access.parse(raw["nats"], f"{path}: nats"))
    except KeyError as error:
        msg = f"{path}: key {error.args[0]!r} is missing"
        raise ConfigError(msg) from error
    except (TypeError, ValueError, AttributeError) as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from error


def wanted_events(kernel: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the events that a section `kernel_monitoring` asks for."""
    if not kernel.get("enable_ebpf", True):
        return ()
    sockets = kernel.get("enable_socket_events", True)
    switches = kernel.get("events") or {}
    return tuple(
        name
        for name, record in KERNEL_EVENTS.items()
        if switches.get(name, True) and (sockets or record.ring != "socket")
    )


def _settings(raw: Mapping[str, Any], access: Access) -> Settings:
    source, configuration = str(raw.get("source", "ebpf")), str(raw.get("configuration", FROM_FILE))
    if configuration not in (FROM_FILE, FROM_BROKER):
        raise ValueError(f"configuration {configuration!r} is neither {FROM_FILE!r} nor {FROM_BROKER!r}")
    if configuration == FROM_BROKER and source != "ebpf":
        raise ValueError(
            f"source {source!r} cannot be configured by the broker; configuration {FROM_BROKER!r} goes with source 'ebpf'"
        )
    node = _node(raw)
    return Settings(
        node=node, cluster=str(raw.get("cluster", "local")), instance=_name(str(raw.get("instance", "default"))),
        state_dir=Path(raw["state_dir"]), bpf_dir=Path(raw.get("bpf_dir") or "bpf"), source=source,
        replay_path=_path(raw.get("replay_path")), access=access, shard=subjects.shard_of(node, int(raw.get("shards", 1))),
        spool_bytes=int(raw.get("spool", {}).get("max_bytes", 256 * _MIB)), rings=_rings(raw.get("rings") or {}),
        configuration=configuration, events=() if configuration == FROM_BROKER else wanted_events(raw.get("kernel_monitoring") or {}),
        network={} if configuration == FROM_BROKER else dict(raw.get("network_monitoring") or {}),
        packet_capture=bool(raw.get("packet_capture", True)), capture_netns=_path(raw.get("capture_netns")),
        runtime_tasks=_path(raw.get("runtime_tasks")),
        status_interval_s=float(raw.get("status_interval_s", 10)), flush_interval_s=float(raw.get("flush_interval_s", 0.3)),
        keep_programs=bool(raw.get("keep_programs", False)), health_port=_port(raw),
    )  # fmt: skip


def _node(raw: Mapping[str, Any]) -> str:
    """The node's name: `node`, or what the environment variable holds that `node_env` names (a pod's own spec is the same on all nodes)."""
    variable = raw.get("node_env")
    if not variable:
        return str(raw["node"])
    name = os.environ.get(str(variable), "")
    if not name:
        raise ValueError(
            f"the environment variable {variable!r}, which node_env names, is not set: give it the node's name"
        )
    return name


def _rings(raw: Mapping[str, Any]) -> RingSizes:
    """The sizes of the rings that this release has: a newer operator may know more of them."""
    return RingSizes(**{field.name: int(raw[field.name]) for field in fields(RingSizes) if field.name in raw})


def _port(raw: Mapping[str, Any]) -> int:
    port = raw.get("health_port", 0)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _MAX_PORT:
        raise ValueError(f"health_port {port!r} is not a number from 0 (none) to {_MAX_PORT}")
    return port


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _name(value: str) -> str:
    if not value or not all(c.isalnum() or c in "-_" for c in value):
        msg = f"instance {value!r}: letters, digits, - and _ only (it names a directory in bpffs)"
        raise ValueError(msg)
    return value
