"""IP, its tunnels, and the headers of TCP, UDP, SCTP and ICMP: a block of frames becomes columns.

What a tunnel carries counts, not the tunnel: VXLAN (RFC 7348), Geneve (RFC 8926), GRE (RFC 2784, 2890), IP in IP (RFC 2003, 4213). IPv6
extension headers are walked over (RFC 8200, 4.1). Later fragments get the ports of their first one, by a small memory of those.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np

from daemoneye_sensor.packets import columns as c
from daemoneye_sensor.packets import link
from daemoneye_sensor.packets.columns import Fate, Packets, Seen, any_of, be16, be32, be64

_TUNNELS: Final = 3
_EXTENSIONS: Final = 6
_FRAGMENTS: Final = 4096
_MAPPED: Final = np.uint64(0xFFFF00000000)
_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _AH = 0, 43, 44, 60, 51
_SKIPPED: Final = (_HOP, _ROUTING, _DESTINATION, 135, 139, 140)
_IPIP, _SIX, _GRE = 4, 41, 47
_VXLAN: Final = (4789, 8472)
_GENEVE: Final = 6081
_HEADERS: Final = {c.TCP: 20, c.UDP: 8, c.SCTP: 12, c.ICMP: 4, c.ICMPV6: 4}


@dataclass(slots=True)
class _Ip:
    """The innermost IP header of each of n frames so far."""

    kind: np.ndarray
    at: np.ndarray
    stop: np.ndarray
    proto: np.ndarray
    wire: np.ndarray
    cut: np.ndarray
    src_hi: np.ndarray
    src_lo: np.ndarray
    dst_hi: np.ndarray
    dst_lo: np.ndarray
    fragment: np.ndarray
    datagram: np.ndarray


class Decoder:
    """Frames of one capture, block by block.

    Attributes:
        seen: What became of them.
    """

    def __init__(self) -> None:
        self.seen = Seen()
        self._firsts: OrderedDict[tuple[int, ...], tuple[int, int]] = OrderedDict()

    def decode(
        self,
        data: np.ndarray,
        begin: np.ndarray,
        captured: np.ndarray,
        size: np.ndarray,
        time: np.ndarray,
        kind: int,
        *,
        interface: np.ndarray | None = None,
        taken: np.ndarray | None = None,
    ) -> Packets:
        """The IP packets among n frames.

        Args:
            data: Bytes of the capture, uint8.
            begin: Offset of each frame in it, int64.
            captured: Bytes of it that were captured.
            size: Bytes that it had.
            time: Its moment, ns.
            kind: Link type.
            interface: Number of the interface of each; None: all are of interface 0.
            taken: Which capture filters took each (`Packets.taken`).
        """
        self.seen.frames += len(begin)
        if kind not in link.KNOWN:
            self.seen.passed[Fate.LINK] += len(begin)
            begin = begin[:0]
        end = begin + captured[: len(begin)]
        types, at, vlan = link.strip(data, begin, end, kind)
        n = len(begin)
        ip = _Ip(
            types, at, end.copy(), proto=np.zeros(n, np.int64), wire=size[:n] - (at - begin), cut=np.zeros(n, bool), src_hi=np.zeros(n, np.uint64),
            src_lo=np.zeros(n, np.uint64), dst_hi=np.zeros(n, np.uint64), dst_lo=np.zeros(n, np.uint64), fragment=np.zeros(n, np.int64),
            datagram=np.zeros(n, np.int64),
        )  # fmt: skip
        fate = np.zeros(n, np.int8)
        rows = np.arange(n)
        for level in range(_TUNNELS + 1):
            rows = self._headers(data, ip, rows, end, fate)
            inside = _tunnelled(data, ip, rows) if level < _TUNNELS else rows[:0]
            if not len(inside):
                break
            self.seen.tunnelled += len(inside)
            rows = inside
        packets, kept = self._transport(data, ip, fate)
        packets.time, packets.vlan = time[kept].astype(np.uint64), vlan[kept]
        packets.last, packets.count = packets.time, np.ones(len(kept), np.int64)
        packets.interface = np.zeros(len(kept), np.uint16) if interface is None else interface[kept].astype(np.uint16)
        packets.taken = None if taken is None else taken[kept]
        for code, count in enumerate(np.bincount(fate, minlength=len(Fate)).tolist()):
            if code and count:
                self.seen.passed[Fate(code)] += count
        return packets

    def _headers(self, data: np.ndarray, ip: _Ip, rows: np.ndarray, end: np.ndarray, fate: np.ndarray) -> np.ndarray:
        """Read the IP headers of these rows; those that are well."""
        kind = ip.kind[rows]
        four = kind == link.IPV4
        if four.all():  # nearly always
            return _ipv4(data, ip, rows, end, fate)
        fate[rows[kind < 0]] = Fate.SHORT
        fate[rows[(kind >= 0) & (kind != link.IPV4) & (kind != link.IPV6)]] = Fate.NOT_IP
        well = _ipv4(data, ip, rows[four], end, fate), _ipv6(data, ip, rows[kind == link.IPV6], end, fate)
        return np.sort(np.concatenate(well))

    def _transport(self, data: np.ndarray, ip: _Ip, fate: np.ndarray) -> tuple[Packets, np.ndarray]:
        """Read the headers above IP; the packets, and the rows that they are of."""
        rows = np.flatnonzero(fate == Fate.PACKET)
        at, stop, proto = ip.at[rows], ip.stop[rows], ip.proto[rows]
        n = len(rows)
        src_port, dst_port, length = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        flags, sequence, payload = np.zeros(n, np.uint8), np.zeros(n, np.uint32), at.copy()
        first = ip.fragment[rows] == 0
        need = np.zeros(n, np.int64)
        for number, size in _HEADERS.items():
            need[proto == number] = size
        bad = first & (at + need > stop)
        plain = first & ~bad
        ported = np.flatnonzero(plain & any_of(proto, (c.TCP, c.UDP, c.SCTP)))
        src_port[ported], dst_port[ported] = be16(data, at[ported]), be16(data, at[ported] + 2)
        icmp = np.flatnonzero(plain & any_of(proto, (c.ICMP, c.ICMPV6)))
        src_port[icmp], dst_port[icmp] = data[at[icmp]], data[at[icmp] + 1]
        tcp, udp = np.flatnonzero(plain & (proto == c.TCP)), np.flatnonzero(plain & (proto == c.UDP))
        sequence[tcp], flags[tcp] = be32(data, at[tcp] + 4), data[at[tcp] + 13]
        payload[tcp] += (data[at[tcp] + 12] >> 4).astype(np.int64) * 4
        payload[udp] += 8
        behind = stop.copy()
        said = be16(data, at[udp] + 4)
        behind[udp] = np.where(said >= 8, np.minimum(stop[udp], at[udp] + said), stop[udp])
        length[tcp], length[udp] = stop[tcp] - payload[tcp], behind[udp] - payload[udp]
        wrong = np.zeros(n, bool)
        wrong[tcp] = payload[tcp] < at[tcp] + 20
        length[length < 0] = 0
        self._name_fragments(ip, rows, proto, first & ~bad, src_port, dst_port)
        lone = ~first & (src_port < 0)
        keep = np.flatnonzero(~(bad | wrong | lone))
        kept = rows[keep]
        packets = Packets(
            data, *(np.zeros(0),) * 4, ip.src_hi[kept], ip.src_lo[kept], ip.dst_hi[kept], ip.dst_lo[kept], src_port[keep].astype(np.uint16),
            dst_port[keep].astype(np.uint16), proto[keep].astype(np.uint8), flags[keep], sequence[keep], np.zeros(0, np.uint16),
            ip.wire[kept], payload[keep], length[keep], ip.cut[kept],
        )  # fmt: skip
        fate[rows[bad]], fate[rows[wrong]], fate[rows[lone]] = Fate.SHORT, Fate.MALFORMED, Fate.FRAGMENT
        return packets, kept

    def _name_fragments(
        self,
        ip: _Ip,
        rows: np.ndarray,
        proto: np.ndarray,
        whole: np.ndarray,
        src_port: np.ndarray,
        dst_port: np.ndarray,
    ) -> None:
        """Ports for later fragments, -1 where their first was not seen. The few packets that are fragmented, one by one."""
        about = np.flatnonzero(ip.datagram[rows] != 0)
        for row, i in zip(rows[about].tolist(), about.tolist(), strict=True):
            key = (int(ip.src_hi[row]), int(ip.src_lo[row]), int(ip.dst_hi[row]), int(ip.dst_lo[row]), int(proto[i]), int(ip.datagram[row]))  # fmt: skip
            if whole[i]:
                self._firsts[key] = int(src_port[i]), int(dst_port[i])
                if len(self._firsts) > _FRAGMENTS:
                    self._firsts.popitem(last=False)
            elif ip.fragment[row]:
                src_port[i], dst_port[i] = self._firsts.get(key, (-1, -1))


def _ipv4(data: np.ndarray, ip: _Ip, rows: np.ndarray, end: np.ndarray, fate: np.ndarray) -> np.ndarray:
    """RFC 791, 3.1."""
    rows = _whole(ip, rows, 20, end, fate)
    at = ip.at[rows]
    first = data[at]
    header = (first & 15).astype(np.int64) * 4
    total = be16(data, at + 2)
    # A capture of what the card will cut into segments has no total length (TSO): the frame's own counts.
    total = np.where(total == 0, ip.wire[rows], total)
    bad = (first >> 4 != 4) | (header < 20) | (total < header)
    fate[rows[bad]] = Fate.MALFORMED
    rows, at, header, total = rows[~bad], at[~bad], header[~bad], total[~bad]
    rows, (at, header, total) = _inside(rows, at + header, end, fate, at, header, total)
    part = be16(data, at + 6)
    ip.fragment[rows] = part & 0x1FFF
    ip.datagram[rows] = np.where(part & 0x3FFF, be16(data, at + 4) + 1, 0)
    ip.proto[rows] = data[at + 9]
    ip.src_lo[rows] = _MAPPED | be32(data, at + 12).astype(np.uint64)
    ip.dst_lo[rows] = _MAPPED | be32(data, at + 16).astype(np.uint64)
    ip.src_hi[rows] = ip.dst_hi[rows] = 0
    _bounds(ip, rows, at, header, total, end)
    return rows


def _ipv6(data: np.ndarray, ip: _Ip, rows: np.ndarray, end: np.ndarray, fate: np.ndarray) -> np.ndarray:
    """RFC 8200, 3 and 4."""
    rows = _whole(ip, rows, 40, end, fate)
    at = ip.at[rows]
    bad = data[at] >> 4 != 6
    fate[rows[bad]] = Fate.MALFORMED
    rows, at = rows[~bad], at[~bad]
    length = be16(data, at + 4)
    total = np.where(length == 0, ip.wire[rows], length + 40)
    ip.src_hi[rows], ip.src_lo[rows] = be64(data, at + 8), be64(data, at + 16)
    ip.dst_hi[rows], ip.dst_lo[rows] = be64(data, at + 24), be64(data, at + 32)
    ip.proto[rows] = data[at + 6]
    ip.fragment[rows] = ip.datagram[rows] = 0
    _bounds(ip, rows, at, np.full(len(rows), 40), total, end)
    for _ in range(_EXTENSIONS):
        proto = ip.proto[rows]
        walk = rows[any_of(proto, _SKIPPED) | (proto == _AH) | ((proto == _FRAGMENT) & (ip.fragment[rows] == 0))]
        if not len(walk):
            break
        walk = _whole(ip, walk, 8, ip.stop, fate)
        at, proto = ip.at[walk], ip.proto[walk]
        size = data[at + 1].astype(np.int64)
        parts = np.flatnonzero(proto == _FRAGMENT)
        where = be16(data, at[parts] + 2)
        ip.fragment[walk[parts]] = where >> 3
        ip.datagram[walk[parts]] = be32(data, at[parts] + 4) + 1
        ip.proto[walk] = data[at]
        ip.at[walk] += np.select([proto == _FRAGMENT, proto == _AH], [8, (size + 2) * 4], (size + 1) * 8)
        rows = rows[fate[rows] == Fate.PACKET]
    return rows[fate[rows] == Fate.PACKET]


def _tunnelled(data: np.ndarray, ip: _Ip, rows: np.ndarray) -> np.ndarray:
    """Step into tunnels: rows whose `kind`, `at` and `stop` are now those of what the tunnel carries."""
    rows = rows[ip.fragment[rows] == 0]
    proto, at, stop = ip.proto[rows], ip.at[rows], ip.stop[rows]
    found: list[np.ndarray] = []

    def enter(mine: np.ndarray, kind: np.ndarray | int, inner: np.ndarray) -> None:
        ip.wire[mine] -= inner - ip.at[mine]
        ip.kind[mine], ip.at[mine] = kind, inner
        frames = mine[ip.kind[mine] == link.ETHERNET_IN]
        if len(frames):
            kinds, begins = link.ethernet(data, ip.at[frames], ip.stop[frames])
            ip.wire[frames] -= begins - ip.at[frames]
            ip.kind[frames], ip.at[frames] = kinds, begins
        found.append(mine)

    for number, version in ((_IPIP, link.IPV4), (_SIX, link.IPV6)):
        mine = rows[proto == number]
        if len(mine):
            enter(mine, version, ip.at[mine].copy())
    gre = rows[(proto == _GRE) & (at + 4 <= stop)]
    if len(gre):
        bits, kind = be16(data, ip.at[gre]), be16(data, ip.at[gre] + 2)
        known = ((bits & 0x4007) == 0) & any_of(kind, (link.IPV4, link.IPV6, link.ETHERNET_IN))
        gre, bits, kind = gre[known], bits[known], kind[known]
        size = 4 + 4 * ((bits >> 15 & 1) + (bits >> 13 & 1) + (bits >> 12 & 1))
        enter(gre, kind, ip.at[gre] + size)
    udp = rows[(proto == c.UDP) & (at + 16 <= stop)]
    port = be16(data, ip.at[udp] + 2)
    vxlan, geneve = udp[any_of(port, _VXLAN)], udp[port == _GENEVE]
    vxlan = vxlan[data[ip.at[vxlan] + 8] & 8 == 8]  # the flag I: there is a network identifier
    if len(vxlan):
        enter(vxlan, link.ETHERNET_IN, ip.at[vxlan] + 16)
    if len(geneve):
        kind = be16(data, ip.at[geneve] + 10)
        known = (data[ip.at[geneve] + 8] >> 6 == 0) & any_of(kind, (link.IPV4, link.IPV6, link.ETHERNET_IN))
        geneve, kind = geneve[known], kind[known]
        enter(geneve, kind, ip.at[geneve] + 16 + (data[ip.at[geneve] + 8] & 0x3F).astype(np.int64) * 4)
    return np.sort(np.concatenate(found)) if found else rows[:0]


def _whole(ip: _Ip, rows: np.ndarray, size: int, end: np.ndarray, fate: np.ndarray) -> np.ndarray:
    """Those of which so many bytes from `at` on were captured; the fate of others is told."""
    return _inside(rows, ip.at[rows] + size, end, fate)[0]


def _inside(
    rows: np.ndarray, behind: np.ndarray, end: np.ndarray, fate: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    short = behind > end[rows]
    fate[rows[short]] = Fate.SHORT
    return rows[~short], tuple(other[~short] for other in others)


def _bounds(ip: _Ip, rows: np.ndarray, at: np.ndarray, header: np.ndarray, total: np.ndarray, end: np.ndarray) -> None:
    """What follows the header, up to the packet's own end: the padding of a frame belongs to nobody."""
    ip.wire[rows] = total
    ip.at[rows] = at + header
    ip.stop[rows] = np.minimum(at + total, np.minimum(end[rows], ip.stop[rows]))
    ip.cut[rows] = at + total > end[rows]
