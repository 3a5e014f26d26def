"""mining_pool: somebody asks a pool for work, and pays with the machine's electricity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from daemoneye.findings import Finding, Technique
from daemoneye_analytics.conversations import Networks, endpoint, who
from daemoneye_analytics.detectors.base import Parameter, detector
from daemoneye_analytics.detectors.teller import Teller, hourly
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame

_HIJACKING: Final = Technique("T1496", "Resource Hijacking")


@detector(
    name="mining_pool",
    version=1,
    title="A miner speaks with its pool",
    severity="high",
    techniques=(_HIJACKING,),
    parameters=(
        Parameter("exclude_sources", (), "addresses or networks (CIDR) that may mine"),
        hourly("source and pool"),
    ),
)
class MiningPool(Teller):
    """Tells conversations that speak stratum, the protocol between miners of cryptocurrencies and their pools.

    The sensor recognises it by its calls (mining.subscribe, mining.authorize, eth_submitLogin, a login with wallet and agent, and work that is given
    or handed in later), whatever the port. Nothing else speaks it: other JSON-RPC is no reason. Whoever mines on purpose is an `exclude_sources`.
    Stratum inside TLS, as most pools offer it, too, by way of a proxy that speaks another protocol, and inside HTTP (getwork) is not seen. Costs a look
    at the flows' service.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._excluded = Networks(parameters["exclude_sources"], "detector mining_pool.exclude_sources")

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        mining = frame.texts("packet_flow", "service").where(lambda service: service == "stratum")
        found = [self._judge(frame, index) for index in np.flatnonzero(mining).tolist()]
        return [one for one in found if one is not None]

    def _judge(self, frame: Frame, index: int) -> Finding | None:
        row = frame.row("packet_flow", index)
        if bytes(row["src_ip"]) in self._excluded:
            return None
        source, pool = who(row), endpoint(bytes(row["dst_ip"]), row["dst_port"])
        return self._tell(frame, "packet_flow", index, Verdict(
            key=f"pool:{source} {pool}", severity="high", title=f"{source} mines for the pool {pool}", techniques=(_HIJACKING,),
            confidence=0.9, explanation=(
                f"{source} spoke stratum with {pool}: the protocol in which a miner of cryptocurrency asks a pool for work and hands in what it found.",
                f"{row['src_packets']} packets went there and {row['dst_packets']} came back.",
                "Whoever takes over a machine and has no other use for it mines; few workloads do so on purpose.",
            ),
        ))  # fmt: skip
