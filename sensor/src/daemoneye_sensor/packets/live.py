"""What the kernel hands over live, as columns: its counts of conversations, and frames of several interfaces as one block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from daemoneye.events.codec import rows_at
from daemoneye_sensor.packets.capture import CaptureProgram
from daemoneye_sensor.packets.columns import Packets
from daemoneye_sensor.packets.compiling import Filters
from daemoneye_sensor.packets.frames import Frames
from daemoneye_sensor.packets.layers import Decoder


class Watcher(Protocol):
    """Whoever else looks at what a capture shows (evidence)."""

    def follow(self, program: CaptureProgram | None) -> None:
        """The capture's program, whenever there is another; None: nothing is captured."""

    def look(self, shown: Sequence[Frames], names: Mapping[int, str], drops: Mapping[int, int]) -> None:
        """Frames that were read, names of the interfaces by index, and how many frames each one's ring lost since it was opened."""


def packets_of(
    decoder: Decoder, shown: Sequence[Frames], numbers: Mapping[int, int], filters: Filters
) -> Iterator[Packets]:
    """The packets among frames of any interfaces in order of time, one block a link type. The kernel has counted them already.

    A block costs the same whether it has ten packets or a thousand, so the frames of many interfaces are one.

    Args:
        decoder: Reads them.
        shown: Frames of interfaces that are known.
        numbers: Number of each interface by its index.
        filters: The capture's, which are asked of every frame: what is evidence comes whatever they say.
    """
    by_link: defaultdict[int, list[Frames]] = defaultdict(list)
    for frames in shown:
        by_link[frames.link].append(frames)
    for link, parts in by_link.items():
        data = parts[0].data if len(parts) == 1 else np.concatenate([part.data for part in parts])
        before = np.cumsum([0, *(len(part.data) for part in parts[:-1])]).tolist()
        begin = np.concatenate([part.begin + at for part, at in zip(parts, before, strict=True)])
        captured, size, time, kind = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("captured", "size", "time", "kind")
        )
        lengths = [len(part.time) for part in parts]
        interface = np.repeat(np.array([numbers[part.ifindex] for part in parts], np.uint16), lengths)
        ifindex = np.repeat([part.ifindex for part in parts], lengths)
        taken = filters.masks(link, data, begin, captured, size, kind=kind, ifindex=ifindex)
        order = np.argsort(time, kind="stable")
        packets = decoder.decode(
            data, begin[order], captured[order], size[order], time[order], link, interface=interface[order], taken=taken[order]
        )  # fmt: skip
        packets.count = np.zeros(len(packets), np.int64)
        yield packets


def packets_from(flows: np.ndarray, numbers: Mapping[int, int]) -> Packets:
    """What the kernel counted (rows of :data:`daemoneye_sensor.packets.capture.FLOW`), in order of each direction's first packet.

    Args:
        flows: Structured array, shape (n,).
        numbers: Number of each interface by its index; what others counted is left out.
    """
    known = np.array(sorted(numbers), np.int64)
    number = np.array([numbers[index] for index in known.tolist()], np.uint16)
    place = np.searchsorted(known, flows["ifindex"])
    mine = np.flatnonzero(known[np.minimum(place, len(known) - 1)] == flows["ifindex"]) if len(known) else place[:0]
    mine = mine[np.argsort(flows["first"][mine], kind="stable")]
    rows, n = rows_at(flows, mine), len(mine)
    src, dst = (
        np.ascontiguousarray(rows[name]).view(">u8").astype(np.uint64).reshape(n, 2) for name in ("src_ip", "dst_ip")
    )
    nothing = np.zeros(n, np.int64)
    return Packets(
        np.zeros(0, np.uint8), rows["first"], rows["last"], rows["packets"].astype(np.int64), number[place[mine]], src[:, 0], src[:, 1], dst[:, 0],
        dst[:, 1], rows["src_port"], rows["dst_port"], rows["proto"], rows["tcp_flags"].astype(np.uint8), np.zeros(n, np.uint32), rows["vlan"],
        rows["bytes"].astype(np.int64), nothing, nothing, np.zeros(n, bool),
    )  # fmt: skip
