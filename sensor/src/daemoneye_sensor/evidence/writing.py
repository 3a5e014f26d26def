"""What was collected becomes a capture file, part by part, in the dissecting process (`pydoc daemoneye_dissect`).

Responsible for what stands in it beside packets: the finding and the node for the whole, the community id at each packet, what was lost at each interface.
Moments become wall time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import numpy as np

from daemoneye.events.community import community_id
from daemoneye_sensor.dissector import Dissector
from daemoneye_sensor.evidence.keeper import Collected
from daemoneye_sensor.evidence.matching import decoded
from daemoneye_sensor.evidence.seen import Packed
from daemoneye_sensor.packets.columns import Packets
from daemoneye_sensor.packets.layers import Decoder

PART_BYTES: Final = 8 << 20
PART_FRAMES: Final = 32_768
MAX_COMMENTS: Final = 4096
"""Conversations of one part whose packets bear their community id, as many as the dissecting process takes: a scan has hundreds a second."""
_TABLE: Final = np.dtype(
    [("time", "<i8"), ("captured", "<u4"), ("size", "<u4"), ("interface", "<u2"), ("comment", "<u2"), ("zero", "<u4")]
)
_KEY: Final = ("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "proto")


async def file_of(dissector: Dissector, collected: Collected, clock_offset_ns: int) -> AsyncIterator[bytes]:
    """The file's bytes.

    Args:
        dissector: Writes the blocks.
        collected: Of a request that has at least one frame.
        clock_offset_ns: Wall time minus CLOCK_BOOTTIME.

    Raises:
        DissectError: The dissecting process does not answer.
    """
    links = sorted({(part.ifindex, part.link) for part in collected.parts})
    request: dict[str, Any] = {
        "comment": _comment(collected),
        "interfaces": [
            {
                "name": collected.names.get(index, str(index)), "link": link, "snaplen": 0, "received": None,
                "dropped": collected.dropped[index],
            }
            for index, link in links
        ],
    }  # fmt: skip
    slices = list(_slices(collected.parts))
    for number, pieces in enumerate(slices):
        table, frames, comments = await asyncio.to_thread(_part, pieces, links, clock_offset_ns)
        told = {
            **request,
            "begin": number == 0,
            "end": number == len(slices) - 1,
            "frames": len(table),
            "comments": comments,
        }
        yield await dissector.pcapng(told, table.tobytes() + frames)


def span(collected: Collected, clock_offset_ns: int) -> tuple[int, int]:
    """Moments of the first and the last frame, ns since 1970."""
    times = [(int(part.time.min()), int(part.time.max())) for part in collected.parts]
    return min(low for low, _ in times) + clock_offset_ns, max(high for _, high in times) + clock_offset_ns


def _comment(collected: Collected) -> str:
    request, dropped = collected.request, sum(collected.dropped.values())
    lost = f"{dropped} frames were lost by the capture meanwhile" if dropped else "the capture lost nothing meanwhile"
    end = "" if collected.complete else "; it ends where its room was used up"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"DaemonEye: packets of finding {request.finding}, kept on node {request.node[:253]} until {moment}; {lost}{end}"


def _slices(parts: Sequence[Packed]) -> Iterator[list[tuple[Packed, int, int]]]:
    """Parts of a bearable size: pieces of what was collected, with the rows where each begins and ends."""
    pieces: list[tuple[Packed, int, int]] = []
    size = count = 0
    for part in parts:
        begin = 0
        for row, captured in enumerate(part.captured.tolist()):
            if count == PART_FRAMES or (count and size + captured > PART_BYTES):
                yield [*pieces, (part, begin, row)] if row > begin else pieces
                pieces, begin, size, count = [], row, 0, 0
            size, count = size + captured, count + 1
        pieces.append((part, begin, len(part.begin)))
    yield pieces


def _part(
    pieces: Sequence[tuple[Packed, int, int]], links: Sequence[tuple[int, int]], clock_offset_ns: int
) -> tuple[np.ndarray, bytes, list[str]]:
    """Table, bytes of the frames, and comments."""
    comments: dict[str, int] = {}
    tables, frames = [], []
    for part, low, high in pieces:
        rows = slice(low, high)
        table = np.zeros(high - low, _TABLE)
        table["time"] = part.time[rows] + clock_offset_ns
        table["captured"] = part.captured[rows]
        table["size"] = np.minimum(part.size[rows], (1 << 32) - 1)
        table["interface"] = links.index((part.ifindex, part.link))
        begin = int(part.begin[low])
        end = int(part.begin[high - 1] + part.captured[high - 1])
        frames.append(part.data[begin:end].tobytes())
        piece = Packed(
            part.data, part.begin[rows], part.captured[rows], part.size[rows], part.time[rows], part.link, part.ifindex
        )
        packets = decoded(Decoder(), piece)
        table["comment"][packets.time.astype(np.int64)] = _commented(packets, comments)
        tables.append(table)
    return np.concatenate(tables), b"".join(frames), list(comments)


def _commented(packets: Packets, comments: dict[str, int]) -> np.ndarray:
    """Place in `comments`, from 1, of each packet's community id; 0 where there is no more room."""
    keys = np.empty(len(packets), [(name, "<u8") for name in _KEY])
    for name in _KEY:
        keys[name] = getattr(packets, name)
    distinct, which = np.unique(keys, return_inverse=True)
    places = []
    for src_hi, src_lo, dst_hi, dst_lo, src_port, dst_port, proto in distinct.tolist():
        source, target = (
            high.to_bytes(8, "big") + low.to_bytes(8, "big") for high, low in ((src_hi, src_lo), (dst_hi, dst_lo))
        )
        text = f"community id {community_id(source, target, src_port, dst_port, proto)}"
        if text not in comments and len(comments) < MAX_COMMENTS:
            comments[text] = len(comments) + 1
        places.append(comments.get(text, 0))
    return np.array(places, np.uint16)[which] if places else np.zeros(0, np.uint16)
