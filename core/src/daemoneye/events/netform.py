"""The endpoints of network rows as people read them: texts of addresses and protocols, and the community id.

One entry a row, made once for each distinct conversation of a batch.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np

from daemoneye.events.addresses import protocol_name, text
from daemoneye.events.community import community_id
from daemoneye.events.network import OF_PEER, Attribution
from daemoneye.events.sockets import Direction, DropReason, Ending

WORDS: Final[dict[str, type[IntEnum]]] = {
    "attribution": Attribution, "peer_attribution": Attribution, "direction": Direction, "ending": Ending,
    "drop_reason": DropReason,
}  # fmt: skip
"""Columns whose numbers are words for people."""


def endpoints_json(rows: np.ndarray) -> list[dict[str, Any]]:
    """What each of n rows says about its two sides.

    Args:
        rows: Rows that begin with `daemoneye.events.network.ENDPOINTS`, shape (n,).
    """
    made: dict[tuple[bytes, bytes, int, int, int], dict[str, Any]] = {}
    columns = ("src_ip", "dst_ip", "src_port", "dst_port", "proto")
    named = [name for name in WORDS if name in (rows.dtype.names or ()) and name not in OF_PEER]
    out = []
    for key, numbers in zip(
        zip(*(rows[name].tolist() for name in columns), strict=True),
        zip(*(rows[name].tolist() for name in named), strict=True),
        strict=True,
    ):
        if key not in made:
            src, dst, src_port, dst_port, proto = key
            made[key] = {
                "src_ip": text(src), "src_port": src_port, "dst_ip": text(dst), "dst_port": dst_port,
                "proto": protocol_name(proto), "community_id": community_id(src, dst, src_port, dst_port, proto),
            }  # fmt: skip
        out.append({**made[key], **{name: word_of(name, number) for name, number in zip(named, numbers, strict=True)}})
    return out


def word_of(column: str, number: int) -> str:
    """The word for a number of one of WORDS; a later release's number is shown as it is."""
    try:
        return WORDS[column](number).name.lower()
    except ValueError:
        return str(number)


def number_of(column: str, name: object) -> int:
    """The inverse of `word_of`.

    Raises:
        ValueError: There is none of that name.
    """
    known = WORDS[column]
    text = str(name)
    if text.isdecimal() and int(text) < 1 << 8:
        return int(text)
    try:
        return int(known[text.upper()])
    except KeyError:
        msg = f"{column} {name!r} is none of {', '.join(entry.name.lower() for entry in known)}"
        raise ValueError(msg) from None
