"""dns_tunnel: names that carry data, and names that nobody would have chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

from daemoneye.events.base import splitmix64
from daemoneye.findings import Finding, Technique
from daemoneye_analytics.conversations import halves, who
from daemoneye_analytics.detectors.base import Parameter, detector
from daemoneye_analytics.detectors.distinct import Distinct
from daemoneye_analytics.detectors.names import DRAWN, Name, read
from daemoneye_analytics.detectors.parts import Part
from daemoneye_analytics.detectors.teller import SECOND, Teller, hourly
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame, text_hash

_DNS: Final = Technique("T1071.004", "DNS")
_TUNNEL: Final = Technique("T1572", "Protocol Tunneling")
_EXFILTRATION: Final = Technique("T1048", "Exfiltration Over Alternative Protocol")
_GENERATED: Final = Technique("T1568.002", "Domain Generation Algorithms")
# What is asked for the sake of an address.
_ADDRESSES: Final = frozenset(("A", "AAAA", "HTTPS", "SVCB"))
# Names that many machines ask for that hold no data of theirs: reverse lookups, service discovery, block lists and reputation services.
_HARMLESS: Final = (
    "in-addr.arpa", "ip6.arpa", "local", "cluster.local", "internal", "home.arpa", "spamhaus.org", "spamcop.net", "sorbs.net", "surbl.org",
    "uribl.com", "barracudacentral.org", "senderscore.com", "dnswl.org", "mailspike.net", "sophosxl.net", "avqs.mcafee.com", "avts.mcafee.com",
    "e5.sk", "cloudmark.com", "trendmicro.com", "bitdefender.net",
)  # fmt: skip


@detector(
    name="dns_tunnel",
    version=2,
    title="DNS carries data, or asks for generated names",
    severity="high",
    techniques=(_DNS, _TUNNEL, _EXFILTRATION, _GENERATED),
    parameters=(
        Parameter(
            "name_bits", 300.0, "bits from which on a name carries data whatever is answered: more than the longest hash that names things", minimum=64
        ),
        Parameter("names", 60, "different names with data below one domain that one source asks for within a window", minimum=5),
        Parameter("bits", 6_000.0, "bits that these carry together, by their entropy", minimum=100),
        Parameter(
            "domains",
            25,
            "different domains without an address, with names that look drawn, within a window",
            minimum=5,
        ),
        Parameter("drawn_bits", DRAWN, "surprise in bits a character from which on a domain's name looks drawn", minimum=1),
        Parameter("window_seconds", 300, "length of a window, by the events' own time", minimum=1),
        Parameter("exclude_domains", _HARMLESS, "domains whose names, and those below them, are nobody's concern"),
        Parameter(
            "max_names", 65_536, "names remembered of each kind, 40 bytes each; the oldest go first", minimum=1_000
        ),
        hourly("source and domain"),
    ),
)  # fmt: skip
class DnsTunnel(Teller):
    """Counts how many different names a source asks for below one registered domain that carry data, and the bits of these.

    A tunnel needs new names all the time, for what was asked before is answered from a cache; sixty of them with 6,000 bits are some 750 bytes in five
    minutes. Only labels count that nobody would have chosen (surprise of 5.2 bits a character and more, see `names`), so that what services, pods and
    machines are called carries nothing however long it is. What carries more than `name_bits` is data: SHA-256 and the content ids of IPFS, the longest
    hashes that name things, have 256 and 288 bits, a tunnel's names have what 253 characters hold. What carries less may be a hash, as content delivery
    networks and browsers ask for, and counts only if it was not asked for the sake of an address (TXT, NULL, CNAME …) or does not exist; what a search
    list made of somebody else's name does not.

    It also counts registered domains with drawn names (`xkqjzvtwpb`) that do not exist: a domain generation algorithm tries names until one is
    registered. Twenty-five of them within five minutes are more than typing errors and dead links come to, of which one in sixteen looks
    drawn. Generators that join words are not told from people.

    The search list of a cluster (`shop.svc.cluster.local`), reverse lookups and block lists are left out (`exclude_domains`). A slow tunnel, one in
    answers alone, and one whose names carry no more than a hash and get an address each are not seen. Costs 30 µs a name that was not met before.
    """

    _format: ClassVar[int] = 2

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self._excluded = tuple(f".{domain.strip('.').lower()}" for domain in parameters["exclude_domains"])
        self._names, self._domains = (Distinct(parameters["max_names"]) for _ in range(2))

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        rows = frame.rows("dns_query")
        if not len(rows):
            return []
        texts = frame.texts("dns_query", "query")
        names = [Name("") if self._is_excluded(value) else read(value) for value in texts.values]
        window = frame.batch.wall_ns(rows["time"]) // (self._p["window_seconds"] * SECOND)
        hi, lo = halves(rows["src_ip"])
        source = splitmix64(splitmix64(hi) ^ lo)
        domain = np.array([text_hash(name.domain) for name in names], np.uint64)[texts.codes]
        missing = frame.texts("dns_query", "rcode").where(lambda rcode: rcode == "NXDOMAIN")
        found = self._tunnels(frame, names, texts.codes, window, source, domain, missing)
        found += self._generated(frame, names, texts.codes, window, source, domain, missing)
        return [one for one in found if one is not None]

    @property
    def _parts(self) -> dict[str, Part]:
        return {**super()._parts, "names": self._names, "domains": self._domains}

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            **super().status(),
            "names": len(self._names) + len(self._domains),
            "dropped": self._names.dropped + self._domains.dropped,
        }

    def _is_excluded(self, name: str) -> bool:
        return f".{name.rstrip('.').lower()}".endswith(self._excluded)

    def _tunnels(
        self,
        frame: Frame,
        names: list[Name],
        codes: np.ndarray,
        window: np.ndarray,
        source: np.ndarray,
        domain: np.ndarray,
        missing: np.ndarray,
    ) -> list[Finding | None]:
        bits = np.array([name.bits for name in names])[codes]
        searched = np.array([name.searched for name in names])[codes]
        address = frame.texts("dns_query", "type").where(_ADDRESSES.__contains__)
        may_be_hash = bits < self._p["name_bits"]
        at = np.flatnonzero((bits > 0) & ~(may_be_hash & (searched | (address & ~missing))))
        data = np.array([text_hash(name.data) for name in names], np.uint64)[codes[at]]
        added = self._names.add(window[at], splitmix64(source[at] ^ domain[at]), data, bits[at])
        reached = added.reached(int(self._p["names"]), bits[at], float(self._p["bits"]))
        return [
            self._tunnel(frame, int(at[i]), names[codes[at[i]]], int(added.count[i]), float(added.total[i]))
            for i in reached.tolist()
        ]

    def _generated(
        self,
        frame: Frame,
        names: list[Name],
        codes: np.ndarray,
        window: np.ndarray,
        source: np.ndarray,
        domain: np.ndarray,
        missing: np.ndarray,
    ) -> list[Finding | None]:
        surprise = np.array([name.surprise for name in names])[codes]
        at = np.flatnonzero(missing & (surprise >= self._p["drawn_bits"]))
        added = self._domains.add(window[at], source[at], domain[at], surprise[at])
        reached = added.reached(int(self._p["domains"])).tolist()
        return [
            self._dga(frame, int(at[i]), int(added.count[i]), float(added.total[i]) / int(added.count[i]))
            for i in reached
        ]

    def _tunnel(self, frame: Frame, index: int, name: Name, count: int, bits: float) -> Finding | None:
        row = frame.row("dns_query", index)
        source, seconds = who(row), self._p["window_seconds"]
        return self._tell(frame, "dns_query", index, Verdict(
            key=f"tunnel:{source}:{name.domain}", severity="high", title=f"Data in DNS: {source} asks for ever new names below {name.domain}",
            techniques=(_DNS, _TUNNEL, _EXFILTRATION), confidence=0.75, explanation=(
                f"{source} asked for {count} different names below {name.domain} within {seconds} s, the last of them {row['query'][:120]}.",
                f"What stands before the domain carries {bits:,.0f} bits by its entropy, as much as {bits / 8:,.0f} bytes.",
                f"Whoever runs the name servers of {name.domain} gets each of these names, past every filter of addresses.",
            ),
        ))  # fmt: skip

    def _dga(self, frame: Frame, index: int, count: int, surprise: float) -> Finding | None:
        row = frame.row("dns_query", index)
        source, seconds = who(row), self._p["window_seconds"]
        return self._tell(frame, "dns_query", index, Verdict(
            key=f"generated:{source}", severity="medium", title=f"Generated names: {source} asks for domains that do not exist",
            techniques=(_GENERATED,), confidence=0.6, explanation=(
                f"{source} asked for {count} domains within {seconds} s that do not exist, {row['query'][:120]} the last.",
                f"Their names look drawn: {surprise:.1f} bits a character on average.",
                "Malware tries such names until one of them is registered by its author.",
            ),
        ))  # fmt: skip
