"""scapy's process as its parent sees it: what it answers, what it may, and how it ends. It really runs, and is asked over its pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, UDP
from scapy.utils import rdpcap

from daemoneye_sensor.dissector import COMMAND
from daemoneye_sensor.sources.capturefile import CaptureFile
from tests.support.dissecting import ether, message, messages, table

SECOND = 1_000_000_000
QUERY = bytes(
    ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=5000, dport=53) / DNS(id=7, qd=DNSQR(qname="a.b.example"))
)


def ask(*requests: bytes, status: int = 0) -> list[tuple[dict, bytes]]:
    done = subprocess.run(COMMAND, input=b"".join(requests), capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (status, b"")
    (ready, _), *answers = messages(done.stdout)
    assert ready == {"ready": True, "user": 65534 if os.geteuid() == 0 else os.geteuid()}
    return answers


def test_a_frame_becomes_layers_and_a_bad_one_an_error_after_which_it_goes_on():
    (good, _), (unknown, _), (short, _), (verb, _) = ask(
        message({"id": 1, "do": "dissect", "link": 1}, QUERY),
        message({"id": 2, "do": "dissect", "link": 60_000}, QUERY),
        message({"id": 3, "do": "dissect", "link": 1}, QUERY[:15]),
        message({"id": 4, "do": "anything"}),
    )
    assert (good["id"], good["ok"], good["cut"]) == (1, True, False)
    assert [layer["name"] for layer in good["layers"]] == ["Ethernet", "IP", "UDP", "DNS"]
    assert good["layers"][1]["fields"]["dst"] == "10.0.0.2"
    assert "a.b.example" in str(good["layers"][3]["fields"]["qd"])
    assert (unknown["id"], unknown["ok"], unknown["error"]) == (2, False, "ValueError: link type 60000 is not known")
    assert short["ok"]
    assert short["layers"][-1]["name"] == "Raw"
    assert (verb["id"], verb["ok"]) == (4, False)


def test_an_answer_is_bounded_whatever_the_frame_says():
    many = DNS(qd=[DNSQR(qname="x" * 60 + f".{n}.example") for n in range(800)])
    frame = bytes(ether() / IP() / UDP(sport=1, dport=53) / many)
    deep = bytes(ether()) + bytes(IP(proto=4)) * 200
    for header, _ in ask(*(message({"do": "dissect"}, each) for each in (frame, deep))):
        assert header["ok"]
        assert header["cut"]
        assert len(str(header)) < 100_000


def test_frames_become_a_capture_file_with_comments_and_drops(tmp_path: Path):
    times = [1_767_225_600 * SECOND + 123_456_789, 1_767_225_601 * SECOND]
    request = {
        "do": "pcapng", "frames": 2, "comment": "finding 0123", "comments": ["community id 1:abc="],
        "interfaces": [{"name": "eth0", "link": 1, "snaplen": 1500, "received": 12, "dropped": 3}],
    }  # fmt: skip
    ((header, whole),) = ask(message(request, table([(times[0], QUERY, 0, 1), (times[1], QUERY + b"\0", 0, 0)])))
    assert header == {"id": 0, "ok": True, "frames": 2}
    path = tmp_path / "out.pcapng"
    path.write_bytes(whole)
    first, second = rdpcap(str(path))
    assert (bytes(first), first.comments) == (QUERY, [b"community id 1:abc="])
    assert (bytes(second), second.comments) == (QUERY + b"\0", None)
    (block,) = CaptureFile(path).blocks()
    assert (block.time.tolist(), block.interface, block.link) == (times, "eth0", 1)
    assert b"finding 0123" in whole[:64]
    assert whole[-16:-4] == b"\x03" + bytes(7) + bytes(4)  # isb_ifdrop, end of options


def test_a_large_file_is_written_in_parts(tmp_path: Path):
    interfaces = [{"name": "eth0", "link": 1}]
    parts = ask(
        message({"do": "pcapng", "frames": 1, "interfaces": interfaces, "end": False}, table([(1, QUERY, 0, 0)])),
        message({"do": "pcapng", "frames": 1, "interfaces": interfaces, "begin": False}, table([(2, QUERY, 0, 0)])),
    )
    path = tmp_path / "out.pcapng"
    path.write_bytes(b"".join(body for _, body in parts))
    assert [bytes(packet) for packet in rdpcap(str(path))] == [QUERY, QUERY]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"frames": 2}, id="a frame that did not come"),
        pytest.param({"frames": 1 << 20}, id="too many"),
        pytest.param({"frames": 0}, id="bytes of no frame"),
        pytest.param({"interfaces": []}, id="no such interface"),
        pytest.param({"interfaces": [{"link": -1}]}, id="no link type"),
        pytest.param({"comments": [7]}, id="no text"),
        pytest.param({"comment": "x" * 5000}, id="long comment"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(change):
    request = {"do": "pcapng", "frames": 1, "interfaces": [{}], **change}
    (bad, body), (good, _) = ask(message(request, table([(1, QUERY, 0, 0)])), message({"do": "dissect"}, QUERY))
    assert (bad["ok"], body, good["ok"]) == (False, b"", True)


@pytest.mark.parametrize("garbage", [b"\xff" * 8, b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\2\0\0\0\0{", b"\0"])
def test_what_is_no_message_ends_it(garbage):
    ((answer, _),) = ask(garbage, status=2)
    assert not answer["ok"]


@pytest.fixture
def running():
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.read(1)
    yield process
    process.kill()
    process.communicate()


def test_it_has_no_privileges_and_little_room(running):
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{running.pid}/status").read_text().splitlines())
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
    if os.geteuid() == 0:
        assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].split() == []
    limits = Path(f"/proc/{running.pid}/limits").read_text().split("\n")
    found = {line[:26].strip(): line[26:].split()[0] for line in limits[1:] if line}
    assert found["Max address space"] == str(512 << 20)
    assert (found["Max processes"], found["Max open files"], found["Max core file size"]) == ("0", "64", "0")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_where_the_user_cannot_be_changed_no_capability_is_left():
    without = ["setpriv", "--bounding-set", "-setuid,-setgid", "--inh-caps", "-setuid,-setgid"]
    with subprocess.Popen([*without, *COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        ((ready, _),) = messages(process.stdout.read(8 + len(b'{"ready":true,"user":0}')))
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        process.kill()
    assert ready == {"ready": True, "user": 0}
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_it_ends_with_its_parent():
    code = f"""
import subprocess, time
child = subprocess.Popen({list(COMMAND)!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.peek(1)
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    # We keep the pipe's other end: only the kernel's signal is left to end it.
    with Path(f"/proc/{pid}/fd/0").open("wb"):
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 60
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(pid)


def test_a_request_that_takes_too_long_ends_it():
    code = (
        "import signal; from daemoneye_dissect import limits; limits.confine()\n"
        "with limits.within(0.2):\n    sum(range(10**12))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == -signal.SIGALRM


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    "what",
    [
        "open('/etc/passwd')", "open('/tmp/left', 'w')", "os.listdir('/')", "socket.socket()", "socket.socketpair()", "os.execv('/bin/true', ['true'])",
        "os.fork()", "os.kill(os.getppid(), 0)", "os.unlink('/tmp/left')", "open('/proc/self/mem')", "os.chmod('/tmp', 0o777)",
    ],
)  # fmt: skip
def test_whoever_took_it_over_has_neither_files_nor_network_nor_processes(what: str):
    script = f"""
import os, socket
from unittest.mock import patch
from daemoneye_dissect import limits
with patch.object(os, 'geteuid', return_value=1):  # as in a container that may not change users
    limits.confine()
try:
    {what}
except (PermissionError, BlockingIOError):
    print('refused')
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr
