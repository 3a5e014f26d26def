"""What capturing live packets costs, and what is lost, beside tcpdump, tshark and scapy: the same frames at the same rate over a veth pair.

The sender has one core, the receiver another. CPU is the receiver's own (user and system) per packet that was sent; of ours also the time in the
kernel's program, which runs where packets arrive, is added, with what the kernel needs to measure it. What a full copy into a ring costs there is
not seen, to the advantage of the others.

What is told is the steady state: from when packets have been coming for a while until they end. Starting (a first turn loads what it needs) and
stopping (which tells all that is known) happen once in a sensor's life; `whole_us` of the JSON report has the former spread over the run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from tests.bench import machine
from tests.bench.packets import write
from tests.bench.tables import Outcome, Target
from tests.bench.workloads import HERE, compile_c, workspace

_SECONDS: Final = 30.0
_LEAST_S: Final = 10.0
"""What the kernel counted is taken every five seconds: so long has to be measured at least."""
_WARM_S: Final = 3.0
"""Before it is measured."""
_RATES: Final = (10_000, 50_000, 100_000)
_SHARES: Final = (0.01, 0.05)
_FRAMES: Final = 200_000
_SLOW: Final = 10_000
"""tshark and scapy lose nearly all of more than that."""
_SENDER, _RECEIVER = "0", "1"
"""Processors."""
_IN, _OUT = "debench0", "debench1"


def run(*, rounds: int, scale: float) -> Outcome:
    """The bench."""
    del rounds
    outcome = Outcome(
        "capture", ("receiver", "of them to parsers", "packets/s", "lost", "µs a packet", "in the kernel's program", "beside tcpdump")
    )  # fmt: skip
    seconds = _WARM_S + max(_SECONDS * scale, _LEAST_S)
    with workspace() as directory, _namespaces() as (here, there):
        blast = compile_c(HERE / "blast.c", directory / "blast")
        for share in _SHARES:
            path = directory / f"mix-{share}.pcap"
            write(path, _FRAMES, share)
            for rate in _RATES:
                base = None
                for name, command in _receivers(rate):
                    found = _measure(
                        name, command, [str(blast), _OUT, str(path)], rate, int(rate * seconds), here, there
                    )
                    base = base or found["us"]
                    outcome.rows.append(
                        (
                            name,
                            f"{share:.0%}",
                            f"{rate:,}",
                            f"{found['lost']:.2%}",
                            found["us"],
                            found["kernel_ns"] / 1000,
                            found["us"] / base,
                        )
                    )
                    outcome.data[f"{name} {share} {rate}"] = found
    for share, bound in zip(_SHARES, (0.5, 1.0), strict=True):
        ours = outcome.data.get(f"DaemonEye {share} 10000", {})
        outcome.targets.append(
            Target(f"% of a core per 10,000 packets/s, {share:.0%} to parsers", ours.get("us"), bound)
        )
    lost = [outcome.data.get(f"DaemonEye {share} 100000", {}).get("lost") for share in _SHARES]
    outcome.targets.append(Target("lost at 100,000 packets/s, share", max(filter(None, lost), default=0.0), 0.0))
    return outcome


def _receivers(rate: int) -> Iterator[tuple[str, list[str]]]:
    """Whoever is on this machine; tcpdump, if it is there, is what others are compared with."""
    client = [sys.executable, str(HERE / "capture_client.py")]
    if shutil.which("tcpdump"):
        yield "tcpdump -w /dev/null", ["tcpdump", "-i", _IN, "-n", "-w", "/dev/null"]
    yield "DaemonEye", [*client, "ours", _IN]
    yield "DaemonEye, XDP", [*client, "xdp", _IN]
    if rate <= _SLOW:
        if shutil.which("tshark"):
            fields = ("tls.handshake.extensions_server_name", "dns.qry.name", "http.host")
            yield (
                "tshark -T fields",
                ["tshark", "-i", _IN, "-n", "-Q", "-T", "fields", *(w for f in fields for w in ("-e", f))],
            )
        yield "scapy sniff", [*client, "scapy", _IN]


def _measure(
    name: str, command: list[str], blast: list[str], rate: int, count: int, here: str, there: str
) -> dict[str, Any]:
    """One receiver under one load."""
    received = subprocess.Popen(
        ["ip", "netns", "exec", there, "taskset", "-c", _RECEIVER, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        native = "capture_client" in " ".join(command)
        if native:
            assert received.stdout is not None
            assert received.stdout.readline().strip() == "ready"
        else:
            time.sleep(3.0)  # neither says on a pipe when it has begun
        with machine.bpf_stats():
            begin = _mark(received.pid)
            with subprocess.Popen(
                ["ip", "netns", "exec", here, "taskset", "-c", _SENDER, *blast, str(rate), str(count)], stdout=subprocess.PIPE, text=True,
            ) as sender:  # fmt: skip
                time.sleep(_WARM_S)
                warm = _mark(received.pid)
                sent, _ = sender.communicate()
                end = _mark(received.pid)
            if sender.returncode:
                raise subprocess.CalledProcessError(sender.returncode, sender.args)
        done = int(sent.split()[0])
        received.send_signal(signal.SIGTERM)
        out, err = received.communicate(timeout=120)
    finally:
        if received.poll() is None:
            received.kill()
            received.communicate()
    said = json.loads(out.splitlines()[-1]) if native else {}
    lost = _lost(said, err, done, out)
    steady = done * (end.moment - warm.moment) / (end.moment - begin.moment)
    user_us, kernel_us = 1e6 * (end.cpu_s - warm.cpu_s) / steady, 1e6 * (end.kernel_s - warm.kernel_s) / steady
    return {
        "us": user_us + kernel_us,
        "user_us": user_us,
        "kernel_ns": 1000 * kernel_us,
        "whole_us": 1e6 * (end.cpu_s + end.kernel_s - begin.cpu_s - begin.kernel_s) / done,
        "lost": lost,
        "sent": done,
        "said": said,
    }


class _Mark(NamedTuple):
    """A moment, and what a receiver had used until then: its own time and that of its programs in the kernel, s."""

    moment: float
    cpu_s: float
    kernel_s: float


def _mark(pid: int) -> _Mark:
    return _Mark(time.monotonic(), machine.usage([pid]).cpu_s, machine.bpf_time([pid])[0] / 1e9)


def _lost(said: dict[str, Any], words: str, sent: int, out: str) -> float:
    """Share of what was sent that the receiver did not see; of ours also what it was to read and could not."""
    if "dropped" in said:
        return (max(sent - said["packets"], 0) + said["dropped"]) / sent
    if "packets" in said:
        return max(sent - said["packets"], 0) / sent
    if match := re.search(r"(\d+) packets? received by filter\s+(\d+) packets? dropped by kernel", words):
        return int(match[2]) / sent
    return max(sent - len(out.splitlines()), 0) / sent


@contextmanager
def _namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a veth pair between them; gone afterwards."""
    here, there = f"debench-a-{os.getpid()}", f"debench-b-{os.getpid()}"
    try:
        for name in (here, there):
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(
            ["ip", "-n", here, "link", "add", _OUT, "type", "veth", "peer", "name", _IN, "netns", there], check=True
        )
        for name, link in ((here, _OUT), (there, _IN)):
            subprocess.run(
                ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=False
            )
            subprocess.run(["ip", "-n", name, "link", "set", link, "up"], check=True)
        yield here, there
    finally:
        for name in (here, there):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
