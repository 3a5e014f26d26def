"""One receiver of the bench `capture`, in a process and network namespace of its own: `capture_client.py NAME INTERFACE`.

It says `ready`, receives until it is told to end by SIGTERM, and prints JSON: what it saw, what it lost, how much CPU that took after `ready`.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

_BPF: Final = Path(__file__).resolve().parents[2] / "bpf"
_PAUSE_S: Final = 0.3
"""Between two looks, as the sensor's pipeline does."""


def ours(interface: str, over: list[int], *, xdp: bool = False) -> dict[str, Any]:
    """The source `packets`; with XDP as the counter of what arrives."""
    from daemoneye_sensor.packets.capturing import Capture
    from daemoneye_sensor.sources.packets import PacketSource

    # A budget that is never met: what is measured is the whole of it.
    source = PacketSource(bpf_dir=_BPF, capture=Capture(interfaces=(interface,), cpu_percent=100.0, xdp=xdp))
    source.open({}, None)
    source.drain()  # whoever is to count does
    rows, packets = 0, 0
    began = _ready()
    while True:
        ending = bool(over)  # asked once: whoever ends must have finished before
        if ending:
            source.finish()
        while (drain := source.drain()) is not None:
            rows += drain.rows
            for section in drain.sections:
                if section.record.name == "packet_flow":
                    packets += int(section.rows["src_packets"].sum() + section.rows["dst_packets"].sum())
            if not drain.more:
                break
        if ending:
            break
        time.sleep(_PAUSE_S)
    cpu = time.process_time() - began
    status: dict[str, Any] = source.status()
    counter = status["interfaces"][interface]["counter"]
    source.close(keep=False)
    lost = {loss.reason: loss.count for loss in source.lost()}
    return {
        "packets": packets,
        "rows": rows,
        "exported": status["exported"],
        "dropped": status["dropped"],
        "lost": lost,
        "counter": counter,
        "cpu_s": cpu,
    }


def scapy(interface: str, over: list[int]) -> dict[str, Any]:
    """scapy's sniff without keeping anything."""
    from scapy.sendrecv import sniff

    seen = 0

    def count(_: object) -> None:
        nonlocal seen
        seen += 1

    began = _ready()
    while not over:
        sniff(iface=interface, store=False, prn=count, timeout=0.5)
    return {"packets": seen, "cpu_s": time.process_time() - began}


def _ready() -> float:
    began = time.process_time()
    print("ready", flush=True)
    return began


def main() -> None:
    """Run one."""
    over: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        over.append(number)

    signal.signal(signal.SIGTERM, end)
    # Not this file's folder: it has an `encodings`, and so has the standard library.
    sys.path[0] = str(_BPF.parent)
    receivers: dict[str, Callable[[str, list[int]], dict[str, Any]]]
    receivers = {"ours": ours, "xdp": partial(ours, xdp=True), "scapy": scapy}
    print(json.dumps(receivers[sys.argv[1]](sys.argv[2], over)), flush=True)


if __name__ == "__main__":
    main()
