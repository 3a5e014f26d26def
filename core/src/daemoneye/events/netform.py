"""The endpoints of network rows as people read them: texts of addresses and protocols, and the community id.

One entry a row, made once for each distinct conversation of a batch.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from daemoneye.events.addresses import protocol_name, text
from daemoneye.events.community import community_id
from daemoneye.events.network import Attribution

_QUALITIES: Final = {int(quality): quality.name.lower() for quality in Attribution}


def endpoints_json(rows: np.ndarray) -> list[dict[str, Any]]:
    """What each of n rows says about its two sides.

    Args:
        rows: Rows that begin with `daemoneye.events.network.ENDPOINTS`, shape (n,).
    """
    made: dict[tuple[bytes, bytes, int, int, int], dict[str, Any]] = {}
    columns = ("src_ip", "dst_ip", "src_port", "dst_port", "proto")
    out = []
    for key, quality in zip(
        zip(*(rows[name].tolist() for name in columns), strict=True), rows["attribution"].tolist(), strict=True
    ):
        if key not in made:
            src, dst, src_port, dst_port, proto = key
            made[key] = {
                "src_ip": text(src), "src_port": src_port, "dst_ip": text(dst), "dst_port": dst_port,
                "proto": protocol_name(proto), "community_id": community_id(src, dst, src_port, dst_port, proto),
            }  # fmt: skip
        out.append({**made[key], "attribution": _QUALITIES.get(quality, str(quality))})
    return out


def attribution(name: object) -> int:
    """The number of an attribution's name.

    Raises:
        ValueError: There is none of that name.
    """
    for number, known in _QUALITIES.items():
        if known == name:
            return number
    msg = f"attribution {name!r} is none of {', '.join(_QUALITIES.values())}"
    raise ValueError(msg)
