"""tshark, as the independent reader that the product is compared with."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from tests.accuracy import world

Fields = dict[str, list[str]]


def _run(wire: Path, *arguments: str) -> str:
    known = [f"-dtcp.port=={port},tls" for port in world.TLS_PORTS] + [f"-dudp.port=={world.QUIC_RETRY},quic"]
    environment = {**os.environ, "HOME": str(wire.parent), "XDG_CONFIG_HOME": str(wire.parent)}
    done = subprocess.run(
        ["tshark", "-n", "-r", wire, *known, *arguments], env=environment, capture_output=True, timeout=120, check=False
    )  # fmt: skip
    text = done.stdout.decode("utf-8", "surrogateescape")
    assert done.returncode == 0, done.stderr
    return text


def fields(wire: Path, wanted: str, names: Sequence[str], *options: str) -> list[Fields]:
    """The values of fields of every packet that a display filter lets through; an empty list where a packet has none."""
    asked = [argument for name in names for argument in ("-e", name)]
    found = json.loads(_run(wire, "-Y", wanted, "-T", "json", *asked, *options))
    return [{name: packet["_source"]["layers"].get(name, []) for name in names} for packet in found]


def trees(wire: Path, wanted: str) -> Iterator[Element]:
    """Every packet as the tree that Wireshark shows."""
    # Control characters are no XML, and nothing here is about them.
    yield from fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", _run(wire, "-Y", wanted, "-T", "pdml"))).iter(
        "packet"
    )


def conversations(wire: Path, proto: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Packets each way of both endpoints ("address:port"), by tshark's own statistic."""
    row = re.compile(r"^(\S+)\s+<->\s+(\S+)\s+(\d+)\s+\S+ \S+\s+(\d+)\s", re.MULTILINE)
    return {
        (left, right): (int(out), int(back)) for left, right, back, out in row.findall(_run(wire, "-q", "-z", f"conv,{proto}"))
    }  # fmt: skip


@lru_cache
def knows(field: str) -> bool:
    """Whether this version has a field: JA4 came with 4.2."""
    listed = subprocess.run(
        ["tshark", "-G", "fields"], capture_output=True, text=True, errors="replace", timeout=60, check=True
    )
    return f"\t{field}\t" in listed.stdout


def epoch(text: str) -> int:
    """Nanoseconds since 1970 of a frame.time_epoch."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))


def endpoints(packet: dict[str, Any], proto: str) -> tuple[str, int, str, int]:
    """Source and destination of a packet of `fields`."""
    src, dst = (packet["ip.src"] + packet["ipv6.src"])[0], (packet["ip.dst"] + packet["ipv6.dst"])[0]
    return src, int(packet[f"{proto}.srcport"][0]), dst, int(packet[f"{proto}.dstport"][0])


def ends(proto: str) -> list[str]:
    """The fields that `endpoints` needs."""
    return ["ip.src", "ipv6.src", "ip.dst", "ipv6.dst", f"{proto}.srcport", f"{proto}.dstport"]
