"""dns_tunnel: names that carry data, and names that nobody would have chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from math import log2
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from publicsuffixlist import PublicSuffixList

from daemoneye.events.base import splitmix64
from daemoneye.findings import Finding, Technique
from daemoneye_analytics import conversations
from daemoneye_analytics.conversations import halves, who
from daemoneye_analytics.detectors.base import Declaration, Parameter, State, detector
from daemoneye_analytics.detectors.distinct import Distinct
from daemoneye_analytics.detectors.parts import Part, gathered, restored
from daemoneye_analytics.detectors.repeats import Repeats
from daemoneye_analytics.evidence import Verdict
from daemoneye_analytics.frame import Frame, text_hash

_DNS: Final = Technique("T1071.004", "DNS")
_TUNNEL: Final = Technique("T1572", "Protocol Tunneling")
_EXFILTRATION: Final = Technique("T1048", "Exfiltration Over Alternative Protocol")
_GENERATED: Final = Technique("T1568.002", "Domain Generation Algorithms")
_SECOND: Final = 1_000_000_000
_FORMAT: Final = 1
_SHORTEST: Final = 8
"""Letters of a domain's own label from which on it can look as if it had been drawn."""
# Names that many machines ask for that hold no data of theirs: reverse lookups, service discovery, block lists and reputation services.
_HARMLESS: Final = (
    "in-addr.arpa", "ip6.arpa", "local", "cluster.local", "internal", "home.arpa", "spamhaus.org", "spamcop.net", "sorbs.net", "surbl.org",
    "uribl.com", "barracudacentral.org", "senderscore.com", "dnswl.org", "mailspike.net", "sophosxl.net", "avqs.mcafee.com", "avts.mcafee.com",
    "e5.sk", "cloudmark.com", "trendmicro.com", "bitdefender.net",
)  # fmt: skip


class Name(NamedTuple):
    """What a name says of itself.

    Attributes:
        domain: The domain that somebody registered; empty for what is none (a public suffix, a name of one label).
        bits: Entropy of what stands before it: bits a character times characters.
        drawn: Bits a character of the registered label itself; 0 where it is shorter than `_SHORTEST`.
    """

    domain: str
    bits: float
    drawn: float


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()  # 0.1 s, when the first name comes


@lru_cache(maxsize=65_536)
def read(name: str) -> Name:
    """Take a name apart by the public suffix list (https://publicsuffix.org)."""
    name = name.rstrip(".").lower()
    domain = _suffixes().privatesuffix(name) or ""
    if not domain:
        return Name("", 0.0, 0.0)
    before = name[: -len(domain) - 1].replace(".", "")
    label = domain.partition(".")[0]
    return Name(domain, entropy(before) * len(before), entropy(label) if len(label) >= _SHORTEST else 0.0)


def entropy(text: str) -> float:
    """Shannon's entropy of a text's characters, bits a character; 0 for the empty text."""
    total = len(text)
    return -sum(count / total * log2(count / total) for count in Counter(text).values()) if total else 0.0


@detector(
    name="dns_tunnel",
    version=1,
    title="DNS carries data, or asks for generated names",
    severity="high",
    techniques=(_DNS, _TUNNEL, _EXFILTRATION, _GENERATED),
    parameters=(
        Parameter(
            "name_bits", 40.0, "bits from which on a name may carry data: a dozen letters as if drawn", minimum=1
        ),
        Parameter("names", 60, "different names below one domain that one source asks for within a window", minimum=5),
        Parameter("bits", 6_000.0, "bits that these carry together, by their entropy", minimum=100),
        Parameter(
            "domains",
            25,
            "different domains without an address, with names that look drawn, within a window",
            minimum=5,
        ),
        Parameter("drawn_bits", 2.8, "bits a character from which on a domain's name looks drawn", minimum=1),
        Parameter("window_seconds", 300, "length of a window, by the events' own time", minimum=1),
        Parameter("exclude_domains", _HARMLESS, "domains whose names, and those below them, are nobody's concern"),
        Parameter(
            "max_names", 65_536, "names remembered of each kind, 40 bytes each; the oldest go first", minimum=1_000
        ),
        Parameter(
            "findings_per_hour", 1, "findings of one source and domain within an hour; more are counted", minimum=1
        ),
    ),
)
class DnsTunnel:
    """Counts how many different names a source asks for below one registered domain, and the bits that they carry.

    It also counts registered domains with names like `xkqjzvtwpb` that do not exist. A tunnel needs new names all the time, for what was asked before
    is answered from a cache; sixty of them with 6,000 bits are some 750 bytes in five minutes. A domain generation algorithm tries names until one
    is registered. Short names (`img7.shop.example`) count for nothing, those of content delivery networks repeat, the search list of a cluster
    (`shop.svc.cluster.local`) is left out, reverse lookups and block lists are, too (`exclude_domains`). A slow tunnel, and one in answers alone, are
    not seen. Costs 30 µs a name that was not met before.
    """

    declaration: ClassVar[Declaration]

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._p = parameters
        self._excluded = tuple(f".{domain.strip('.').lower()}" for domain in parameters["exclude_domains"])
        self._names, self._domains = (Distinct(parameters["max_names"]) for _ in range(2))
        self._repeats = Repeats(parameters["findings_per_hour"], 3600 * _SECOND)

    def process(self, frame: Frame) -> list[Finding]:
        """See `Detector`."""
        rows = frame.rows("dns_query")
        if not len(rows):
            return []
        texts = frame.texts("dns_query", "query")
        names = [Name("", 0.0, 0.0) if self._is_excluded(value) else read(value) for value in texts.values]
        window = frame.batch.wall_ns(rows["time"]) // (self._p["window_seconds"] * _SECOND)
        hi, lo = halves(rows["src_ip"])
        source = splitmix64(splitmix64(hi) ^ lo)
        domain = np.array([text_hash(name.domain) for name in names], np.uint64)[texts.codes]
        found = self._tunnels(frame, names, texts.codes, window, source, domain, texts.hashes())
        failed = frame.texts("dns_query", "rcode").where(lambda rcode: rcode == "NXDOMAIN")
        return [
            one for one in (*found, *self._generated(frame, names, texts.codes, window, source, domain, failed)) if one
        ]

    def state(self) -> State:
        """See `Detector`."""
        return gathered(_FORMAT, self._parts)

    def restore(self, state: State) -> None:
        """See `Detector`."""
        restored(state, _FORMAT, self._parts, self.declaration.name)

    @property
    def _parts(self) -> dict[str, Part]:
        return {"names": self._names, "domains": self._domains, "repeats": self._repeats}

    def status(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "phase": "active",
            "names": len(self._names) + len(self._domains),
            "dropped": self._names.dropped + self._domains.dropped,
            "suppressed": self._repeats.suppressed,
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
        asked: np.ndarray,
    ) -> list[Finding | None]:
        bits = np.array([name.bits for name in names])[codes]
        at = np.flatnonzero(bits >= self._p["name_bits"])
        added = self._names.add(window[at], splitmix64(source[at] ^ domain[at]), asked[at], bits[at])
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
        failed: np.ndarray,
    ) -> list[Finding | None]:
        drawn = np.array([name.drawn for name in names])[codes]
        at = np.flatnonzero(failed & (drawn >= self._p["drawn_bits"]))
        added = self._domains.add(window[at], source[at], domain[at], drawn[at])
        reached = added.reached(int(self._p["domains"])).tolist()
        return [
            self._dga(frame, int(at[i]), int(added.count[i]), float(added.total[i]) / int(added.count[i]))
            for i in reached
        ]

    def _tunnel(self, frame: Frame, index: int, name: Name, count: int, bits: float) -> Finding | None:
        row = frame.row("dns_query", index)
        source, seconds = who(row), self._p["window_seconds"]
        return self._told(
            frame, index, f"tunnel:{source}:{name.domain}", f"Data in DNS: {source} asks for ever new names below {name.domain}",
            (_DNS, _TUNNEL, _EXFILTRATION), 0.75,
            f"{source} asked for {count} different names below {name.domain} within {seconds} s, the last of them {row['query'][:120]}.",
            f"What stands before the domain carries {bits:,.0f} bits by its entropy, as much as {bits / 8:,.0f} bytes.",
            f"Whoever runs the name servers of {name.domain} gets each of these names, past every filter of addresses.",
        )  # fmt: skip

    def _dga(self, frame: Frame, index: int, count: int, drawn: float) -> Finding | None:
        row = frame.row("dns_query", index)
        source, seconds = who(row), self._p["window_seconds"]
        return self._told(
            frame, index, f"generated:{source}", f"Generated names: {source} asks for domains that do not exist", (_GENERATED,), 0.6,
            f"{source} asked for {count} domains within {seconds} s that do not exist, {row['query'][:120]} the last.",
            f"Their names look drawn: {drawn:.1f} bits a character on average.",
            "Malware tries such names until one of them is registered by its author.",
        )  # fmt: skip

    def _told(
        self,
        frame: Frame,
        index: int,
        key: str,
        title: str,
        techniques: tuple[Technique, ...],
        confidence: float,
        *sentences: str,
    ) -> Finding | None:
        time = int(frame.batch.wall_ns(frame.rows("dns_query")["time"][index : index + 1])[0])
        hidden = self._repeats.admit(text_hash(key), time)
        if hidden is None:
            return None
        more = (f"The hour before it was seen {hidden} times more.",) if hidden else ()
        severity = "high" if key.startswith("tunnel") else "medium"
        verdict = Verdict(
            key=key,
            severity=severity,
            title=title,
            techniques=techniques,
            explanation=(*sentences, *more),
            confidence=confidence,
        )
        return conversations.finding(frame, "dns_query", index, self.declaration, verdict)
