"""Evidence on one machine: a finding's packets are kept beside the embedded broker, and what nobody could read is told."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.running import COMMAND, Run

pytestmark = [pytest.mark.integration, pytest.mark.kernel]
HERE = "127.0.0.77"
POLICY = """
apiVersion: daemoneye.io/v1alpha1
kind: DaemonEyePolicy
metadata: {name: evidence}
spec:
  networkMonitoring:
    enablePacketCapture: true
    captureInterface: lo
    captureFilter: host 127.0.0.77
    evidence: {enabled: EVIDENCE, seconds: 2, maxSizeMb: 1}
"""
ASKS = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"


@pytest.fixture
def server() -> Iterator[Callable[[int, bytes], None]]:
    """Gives what says something to a server at a port, which answers once."""
    made: list[socketserver.TCPServer] = []

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def say(port: int, words: bytes) -> None:
        if port not in [one.server_address[1] for one in made]:
            socketserver.TCPServer.allow_reuse_address = True
            made.append(socketserver.ThreadingTCPServer((HERE, port), Answer))
            threading.Thread(target=made[-1].serve_forever, daemon=True).start()
        with socket.create_connection((HERE, port), 5) as one:
            one.sendall(words)
            while one.recv(4096):
                pass

    yield say
    for one in made:
        one.shutdown()
        one.server_close()


def started(runs: Callable[..., Run], directory: Path, *, evidence: bool) -> Run:
    path = directory / "policy.yaml"
    path.write_text(POLICY.replace("EVIDENCE", str(evidence).lower()))
    return runs("--policy", str(path), "--events").ready()


def fetch(run: Run, finding: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), "evidence", finding, "-o", str(path), "--state", str(run.state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_packets_of_a_finding_and_what_nobody_could_read(
    runs: Callable[..., Run], server: Callable[[int, bytes], None], tmp_path: Path
) -> None:
    run = started(runs, tmp_path, evidence=True)
    server(443, b"SSH-2.0-OpenSSH_9.2p1\r\n")
    server(8077, ASKS)
    run.read(lambda: any(one["detector"] == "cloud_metadata" for one in run.of("finding")), 60)
    run.read(lambda: bool(run.events("packet_anomaly")), 60)
    (odd,) = run.events("packet_anomaly")
    assert (odd["reason"], odd["expected"], odd["dst_ip"], odd["dst_port"]) == ("unknown_protocol", "tls", HERE, 443)
    assert odd["summary"] == "begins with SSH-2.0-OpenSSH_9.2p1\r\n"
    assert odd["community_id"].startswith("1:")
    asked = [str(COMMAND), "events", "--event", "packet_anomaly", "-o", "json", "--state", str(run.state)]
    shown = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout
    assert [json.loads(line) for line in shown.splitlines()] == [odd]

    (finding,) = (one["id"] for one in run.of("finding") if one["detector"] == "cloud_metadata")
    path = tmp_path / "out.pcapng"
    while (done := fetch(run, str(finding), path)).returncode:  # the test's own time ends it if nothing else does
        assert "are being kept until" in done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    packets = [
        "tshark",
        "-r",
        str(path),
        "-Y",
        "http.request",
        "-T",
        "fields",
        "-e",
        "http.host",
        "-e",
        "frame.comment",
    ]
    lines = subprocess.run(packets, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines
    assert all(line.startswith("169.254.169.254\tcommunity id 1:") for line in lines)
    assert "exists already" in fetch(run, str(finding), path).stderr
    assert "no packets were kept" in fetch(run, "0" * 32, tmp_path / "other").stderr
    assert run.stop() == 0


def test_it_is_off_by_default(runs: Callable[..., Run], server: Callable[[int, bytes], None], tmp_path: Path) -> None:
    run = started(runs, tmp_path, evidence=False)
    server(443, b"SSH-2.0-OpenSSH_9.2p1\r\n")
    server(8077, ASKS)
    run.read(lambda: any(one["detector"] == "cloud_metadata" for one in run.of("finding")), 60)
    (finding,) = (one["id"] for one in run.of("finding") if one["detector"] == "cloud_metadata")
    assert "evidence is kept while a policy has" in fetch(run, str(finding), tmp_path / "out.pcapng").stderr
    assert not run.events("packet_anomaly")
    assert run.stop() == 0
