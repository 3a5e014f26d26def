"""cloud_metadata: somebody asks the cloud's metadata service, which gives credentials to whoever is on the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.events.addresses import MAPPED, packed
from daemoneye.findings import Finding, Technique
from daemoneye_analytics.conversations import Networks, endpoint, halves, opener, who
from daemoneye_analytics.detectors.base import Parameter, detector
from daemoneye_analytics.detectors.teller import Teller, hourly
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame

_METADATA: Final = Technique("T1552.005", "Cloud Instance Metadata API")
# Who listens there. 168.63.129.16 (Azure's wire server) is left out: every machine of that cloud talks to it all the time.
_SERVICES: Final = {
    packed(address): says
    for address, says in {
        "169.254.169.254": "the metadata service of AWS, Azure, Google Cloud, OpenStack, Oracle and DigitalOcean",
        "fd00:ec2::254": "the metadata service of AWS",
        "169.254.170.2": "the credentials of an ECS task",
        "169.254.170.23": "the credentials of an EKS pod identity",
        "100.100.100.200": "the metadata service of Alibaba Cloud",
        "192.0.0.192": "the metadata service of Oracle Cloud",
    }.items()
}
# Its names; those that a search list completes (`metadata`) are names of other things as well.
_NAMES: Final = {
    "metadata.google.internal": "the metadata service of Google Cloud",
    "metadata.goog": "the metadata service of Google Cloud",
    "instance-data.ec2.internal": "the metadata service of AWS",
}
_CREDENTIALS: Final = re.compile(
    r"security-credentials|/service-accounts/|/identity/oauth2/token|/v2/credentials|/credentials/|/attested/|user-?data|managedIdentity",
    re.IGNORECASE,
)
_PORT: Final = re.compile(r":\d{0,5}$")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0[0-7]{0,11}|[1-9]\d{0,9}")
_WILDCARD: Final = re.compile(r"(?:.*[.-])?(\d{1,3}(?:([.-])\d{1,3})(?:\2\d{1,3}){2})\.(?:nip|sslip|xip)\.io")
"""Names that resolve to the address in them, whoever asks."""


@lru_cache(maxsize=65_536)
def service_of(host: str) -> str:
    """Whose metadata service a request's host names, in words; empty for every other host.

    Numbers are read as programs do (inet_aton: one to four of them, in decimal, octal or hexadecimal), for that is how filters are passed.
    """
    name = (_PORT.sub("", host) if host.count(":") == 1 or host.startswith("[") else host).lower().rstrip(".")
    if name in _NAMES:
        return _NAMES[name]
    if wildcard := _WILDCARD.fullmatch(name):
        name = wildcard[1].replace("-", ".")
    try:
        address = packed(name.strip("[]"))
    except ValueError:
        address = _numbers(name)
    return _SERVICES.get(address, "")


def _numbers(name: str) -> bytes:
    """The address that one to four numbers are, 16 bytes; empty if they are none (inet_aton(3))."""
    parts = name.split(".")
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):
        return b""
    *head, last = (
        int(part, 16 if part[1:2] == "x" else 8 if part.startswith("0") and part != "0" else 10) for part in parts
    )
    rest = 4 - len(head)
    if any(number > 0xFF for number in head) or last >= 1 << 8 * rest:
        return b""
    return MAPPED + bytes(head) + last.to_bytes(rest, "big")


@detector(
    name="cloud_metadata",
    version=2,
    title="The cloud's metadata service is asked",
    severity="high",
    techniques=(_METADATA,),
    parameters=(
        Parameter("exclude_sources", (), "addresses or networks (CIDR) whose questions are nobody's concern"),
        hourly("source and kind", 3),
    ),
)
class CloudMetadata(Teller):
    """Tells connections and requests in the clear to the addresses under which clouds give machines their metadata.

    A request for credentials is `high`, another request `medium`, a connection of which no request was seen `low`. A request to somebody else, a
    proxy, that names such an address or name as its host counts alike, also where the address is written as one number (2852039166), in hexadecimal,
    in octal, as mapped into IPv6, or as a name that resolves to what stands in it (nip.io). Programs of the cloud's own (agents, SDKs with an
    instance's role) ask there rightly: give their addresses as `exclude_sources`. A request inside TLS, also by way of a proxy, and another name that
    resolves there are not seen. Costs a comparison of each flow and request with six addresses, and 5 µs a host that was not met before.
    """

    _again: ClassVar[str] = "In the hour before it did so {} times more."

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._excluded = Networks(parameters["exclude_sources"], "detector cloud_metadata.exclude_sources")

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        found = []
        for record in ("http_request", "packet_flow"):
            rows = frame.rows(record)
            if not len(rows):
                continue
            asked = _listens(rows["dst_ip"])
            if record == "http_request":
                asked |= frame.texts(record, "host").where(lambda host: bool(service_of(host)))
            for index in np.flatnonzero(asked).tolist():
                row = frame.row(record, index)
                # Its requests say more than the flow that carried them.
                if (record == "packet_flow" and row["service"] == "http") or bytes(row["src_ip"]) in self._excluded:
                    continue
                found.append(self._tell(frame, record, index, _verdict(record, row)))
        return [one for one in found if one is not None]


def _listens(addresses: np.ndarray) -> np.ndarray:
    """Which of n addresses are those of such a service, bool, shape (n,)."""
    hi, lo = halves(addresses)
    found = np.zeros(len(addresses), bool)
    for address in _SERVICES:
        found |= (hi == np.uint64(int.from_bytes(address[:8]))) & (lo == np.uint64(int.from_bytes(address[8:])))
    return found


def _verdict(record: str, row: dict[str, Any]) -> Verdict:
    uri = row.get("uri", "")
    if record == "packet_flow":
        kind, severity, what = "connection", "low", "was connected to"
    elif _CREDENTIALS.search(uri):
        kind, severity, what = "credentials", "high", "was asked for credentials"
    else:
        kind, severity, what = "request", "medium", "was asked"
    source, target = who(row), endpoint(bytes(row["dst_ip"]), row["dst_port"])
    if service := _SERVICES.get(bytes(row["dst_ip"])):
        sentences = [f"{source} spoke to {target}: {service}."]
    else:
        sentences = [
            f"{source} asked {target} for {row['host'][:100]}: {service_of(row['host'])}, by way of somebody else."
        ]
    if record == "http_request":
        status = f"; the answer was {row['status']}" if row["status"] else "; no answer was seen"
        sentences.append(
            f"It asked {row['method']} {uri[:200]} with the program {row['user_agent'][:100] or 'that names itself not'}{status}."
        )
    else:
        sentences.append(
            f"{row['src_packets']} packets went there and {row['dst_packets']} came back; no request in the clear was seen."
        )
    sentences.append("Whoever may ask there gets what the machine may do in its cloud; a workload seldom needs that.")
    return Verdict(
        key=f"{kind}:{opener(row) or endpoint(bytes(row['src_ip']))}", severity=severity,
        title=f"The cloud's metadata service {what}: {source}", techniques=(_METADATA,), explanation=sentences,
        confidence=0.9 if record == "http_request" else 0.6,
    )  # fmt: skip
