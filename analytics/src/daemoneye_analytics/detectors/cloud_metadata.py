"""cloud_metadata: somebody asks the cloud's metadata service, which gives credentials to whoever is on the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.errors import ConfigError
from daemoneye.events.addresses import packed, text
from daemoneye.findings import Finding, Technique
from daemoneye_analytics import conversations
from daemoneye_analytics.conversations import endpoint, halves, who
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame, text_hash

_METADATA: Final = Technique("T1552.005", "Cloud Instance Metadata API")
# Who listens there. 168.63.129.16 (Azure's wire server) is left out: every machine of that cloud talks to it all the time.
_SERVICES: Final = {
    "169.254.169.254": "the metadata service of AWS, Azure, Google Cloud, OpenStack, Oracle and DigitalOcean",
    "fd00:ec2::254": "the metadata service of AWS",
    "169.254.170.2": "the credentials of an ECS task",
    "169.254.170.23": "the credentials of an EKS pod identity",
    "100.100.100.200": "the metadata service of Alibaba Cloud",
    "192.0.0.192": "the metadata service of Oracle Cloud",
}
_CREDENTIALS: Final = re.compile(
    r"security-credentials|/service-accounts/|/identity/oauth2/token|/v2/credentials|/credentials/|/attested/|user-?data|managedIdentity",
    re.IGNORECASE,
)
_SPAN_NS: Final = 3600 * 1_000_000_000


@detector(
    name="cloud_metadata",
    version=1,
    title="The cloud's metadata service is asked",
    severity="high",
    techniques=(_METADATA,),
    parameters=(
        Parameter("exclude_sources", (), "addresses or networks (CIDR) whose questions are nobody's concern"),
        Parameter(
            "findings_per_hour", 3, "findings of one source and kind within an hour; more are counted", minimum=1
        ),
    ),
)
class CloudMetadata:
    """Tells connections and requests in the clear to the addresses under which clouds give machines their metadata.

    A request for credentials is `high`, another request `medium`, a connection of which no request was seen `low`. Programs of the cloud's own
    (agents, SDKs with an instance's role) ask there rightly: give their addresses as `exclude_sources`. A request inside TLS or to another address
    that a proxy forwards is not seen. Costs a comparison of each flow and request with six addresses.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._repeats = Repeats(parameters["findings_per_hour"], _SPAN_NS)
        self._services = {packed(address): says for address, says in _SERVICES.items()}
        try:
            self._excluded = [ip_network(value) for value in parameters["exclude_sources"]]
        except ValueError as error:
            raise ConfigError(f"detector cloud_metadata.exclude_sources: {error}") from error

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        found = []
        for record in ("http_request", "packet_flow"):
            rows = frame.rows(record)
            hits = np.flatnonzero(self._asked(rows["dst_ip"])) if len(rows) else np.zeros(0, np.int64)
            for index in hits.tolist():
                row = frame.row(record, index)
                # Its requests say more than the flow that carried them.
                if (record == "packet_flow" and row["service"] == "http") or self._is_excluded(bytes(row["src_ip"])):
                    continue
                if (made := self._finding(frame, record, index, row)) is not None:
                    found.append(made)
        return found

    def state(self) -> State:
        """See `Detector`."""
        return self._repeats.state()

    def restore(self, state: State) -> None:
        """See `Detector`."""
        self._repeats.restore(state)

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"phase": "active", "suppressed": self._repeats.suppressed}

    def _asked(self, addresses: np.ndarray) -> np.ndarray:
        hi, lo = halves(addresses)
        found = np.zeros(len(addresses), bool)
        for address in self._services:
            found |= (hi == np.uint64(int.from_bytes(address[:8]))) & (lo == np.uint64(int.from_bytes(address[8:])))
        return found

    def _is_excluded(self, address: bytes) -> bool:
        return bool(self._excluded) and any(ip_address(text(address)) in network for network in self._excluded)

    def _finding(self, frame: Frame, record: str, index: int, row: dict[str, Any]) -> Finding | None:
        uri = row.get("uri", "")
        if record == "packet_flow":
            kind, severity, what = "connection", "low", "was connected to"
        elif _CREDENTIALS.search(uri):
            kind, severity, what = "credentials", "high", "was asked for credentials"
        else:
            kind, severity, what = "request", "medium", "was asked"
        source, service = who(row), self._services[bytes(row["dst_ip"])]
        key = f"{kind}:{row['workload'] or endpoint(bytes(row['src_ip']))}"
        time = int(frame.batch.wall_ns(np.array([frame.rows(record)["time"][index]]))[0])
        hidden = self._repeats.admit(text_hash(key), time)
        if hidden is None:
            return None
        sentences = [f"{source} spoke to {endpoint(bytes(row['dst_ip']), row['dst_port'])}: {service}."]
        if record == "http_request":
            status = f"; the answer was {row['status']}" if row["status"] else "; no answer was seen"
            sentences.append(
                f"It asked {row['method']} {uri[:200]} with the program {row['user_agent'][:100] or 'that names itself not'}{status}."
            )
        else:
            sentences.append(
                f"{row['src_packets']} packets went there and {row['dst_packets']} came back; no request in the clear was seen."
            )
        sentences.append(
            "Whoever may ask there gets what the machine may do in its cloud; a workload seldom needs that."
        )
        if hidden:
            sentences.append(f"In the hour before it did so {hidden} times more.")
        verdict = Verdict(
            key=key, severity=severity, title=f"The cloud's metadata service {what}: {source}", techniques=(_METADATA,), explanation=sentences,
            confidence=0.9 if record == "http_request" else 0.6,
        )  # fmt: skip
        return conversations.finding(frame, record, index, self.declaration, verdict)
