"""What each process is told: its configuration file, made from the policy.

Responsible for the exact form of ``run/sensor.json`` and ``run/analytics.json``, and for where the BPF sources of this
installation are; not for writing the files or starting the processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daemoneye.api.policyfile import LoadedPolicy
from daemoneye.api.v1alpha1.policy import Evidence
from daemoneye.errors import MachineError
from daemoneye_cli.broker import Broker
from daemoneye_cli.state import State

MIB: Final = 1 << 20
CLUSTER: Final = "local"
STATUS_INTERVAL_S: Final = 10
REPLAY_STATUS_INTERVAL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one machine's installation may take, in bytes; the streams' and the spool's are disk."""

    events_stream: int = 1024 * MIB
    spool: int = 256 * MIB
    exec_ring: int = 4 * MIB
    process_ring: int = 2 * MIB
    blob_ring: int = 4 * MIB
    socket_ring: int = 4 * MIB


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do."""

    policy: LoadedPolicy
    state: State
    node: str
    replay: Path | None = None
    """A file that is read instead of the kernel."""
    form: str = "replay"
    """The source that reads it."""
    port: int = 0
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def evidence(self) -> Evidence | None:
        """What is kept of packets because of findings; None where nothing is."""
        network = self.policy.policy.spec.network_monitoring
        kept = network.enable_packet_capture and network.evidence.enabled and self.replay is None
        return network.evidence if kept else None

    @property
    def status_interval_s(self) -> float:
        """Seconds between two heartbeats; a replay ends on one, so they come quickly."""
        return STATUS_INTERVAL_S if self.replay is None else REPLAY_STATUS_INTERVAL_S


def bpf_directory(environ: Mapping[str, str] = os.environ, start: Path = Path(__file__)) -> Path:
    """Find the BPF sources: ``$DAEMONEYE_BPF_DIR``, the working tree that we run from, or the installation's share."""
    if chosen := environ.get("DAEMONEYE_BPF_DIR"):
        return Path(chosen).absolute()
    places = [*(parent / "bpf" for parent in start.resolve().parents), Path(sys.prefix) / "share" / "daemoneye" / "bpf"]
    for place in places:
        if (place / "programs").is_dir():
            return place
    raise MachineError(
        "the BPF sources are not installed", fix="set DAEMONEYE_BPF_DIR to the folder bpf/ of this release"
    )


def recording(start: Path = Path(__file__)) -> str:
    """Name the recording that comes with the working tree, or a stand-in for one where there is none."""
    places = (parent / "examples" / "one-machine" / "recording.jsonl" for parent in start.resolve().parents)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return "FILE"
    return os.path.relpath(found) if found.is_relative_to(Path.cwd()) else str(found)


def access(broker: Broker, role: str) -> dict[str, Any]:
    """Give a role's way to the broker."""
    credentials = broker.credentials(role)
    return {
        "url": broker.url,
        "user": credentials.user,
        "password": credentials.password,
        "inbox_prefix": credentials.inbox_prefix,
    }


def sensor(plan: Plan, broker: Broker) -> dict[str, Any]:
    """Give the sensor's configuration; raises :class:`MachineError` if its BPF sources are not to be found."""
    sizes = plan.sizes
    return {
        "node": plan.node,
        "cluster": CLUSTER,
        "instance": plan.state.instance,
        "state_dir": str(plan.state.path / "sensor"),
        "bpf_dir": str(bpf_directory()) if plan.replay is None else "",
        "source": "ebpf" if plan.replay is None else plan.form,
        "replay_path": None if plan.replay is None else str(plan.replay.absolute()),
        "nats": {**access(broker, "sensor"), "tls": None},
        "spool": {"max_bytes": sizes.spool},
        "rings": {
            "exec_bytes": sizes.exec_ring,
            "process_bytes": sizes.process_ring,
            "blob_bytes": sizes.blob_ring,
            "socket_bytes": sizes.socket_ring,
        },
        "kernel_monitoring": plan.policy.policy.spec.kernel_monitoring.model_dump(mode="json"),
        "network_monitoring": plan.policy.policy.spec.network_monitoring.model_dump(mode="json"),
        "status_interval_s": plan.status_interval_s,
    }


def analytics(plan: Plan, broker: Broker) -> dict[str, Any]:
    """Give analytics' configuration."""
    kept = plan.evidence
    return {
        "cluster": CLUSTER,
        "state_dir": str(plan.state.path / "analytics"),
        "nats": {**access(broker, "analytics"), "tls": None},
        "analytics": plan.policy.policy.spec.analytics.model_dump(mode="json"),
        "keep": {} if kept is None else {"seconds": kept.seconds, "max_size_mb": kept.max_size_mb},
        "status_interval_s": plan.status_interval_s,
    }
