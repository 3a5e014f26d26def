"""What a workload's machine reaches of the world: run in its network namespace, but outside its cgroup, so that nothing of it is recorded.

`python -m tests.corpus.outside` listens on the addresses that `machine.py` puts on the loopback: a stranger's server with payloads and a waiting shell, and a
neighbour in the same network. Standard library only. It prints a line when it listens, and ends with its standard input.
"""
# ruff: noqa: E501 - payloads stand as they are sent

from __future__ import annotations

import http.server
import socketserver
import sys
import threading
import time
from typing import Final

STRANGER: Final = "203.0.113.7"
NEIGHBOUR: Final = "10.20.0.5"
SHELL_PORTS: Final = (443, 4444, 9001)
WEB_PORTS: Final = (80, 8080)
_TYPED: Final = ("id", "uname -a", "ls -la /", "cat /etc/passwd | head -3", "ps aux | head -5", "hostname")
PAYLOADS: Final = {
    "/i.sh": "#!/bin/sh\nid; uname -m\nmkdir -p /tmp/.cache\ncp /bin/true /tmp/.cache/updated\nchmod +x /tmp/.cache/updated\n/tmp/.cache/updated --daemon\nrm -f /tmp/i.sh\n",
    "/setup": "#!/bin/bash\nfor x in curl wget python3; do command -v $x; done\nnproc; cat /proc/cpuinfo | grep -c model\ncp /bin/sleep /tmp/kinsing && /tmp/kinsing 0.1\n(crontab -l 2>/dev/null; echo '* * * * * /tmp/kinsing') > /tmp/.c\n",
    "/a.txt": "#!/bin/sh\nexport PATH=$PATH:/tmp\nwhoami; ip a | grep inet; netstat -tn | wc -l\npkill -f nothing-like-this\nbase64 /etc/hostname\n",
}


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAYLOADS.get(self.path, "value,1\n" * 50).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST  # noqa: N815 - the standard library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Shell(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        for line in (*_TYPED, "exit"):
            time.sleep(0.05)  # somebody types: the shell that connected back reads line by line
            try:
                self.request.sendall(line.encode() + b"\n")
                self.request.settimeout(0.05)
                self.request.recv(65536)
            except OSError:
                continue


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    """Listen until the standard input ends."""
    servers = [_Server((host, port), _Web) for host in (STRANGER, NEIGHBOUR) for port in WEB_PORTS]
    servers += [_Server((STRANGER, port), _Shell) for port in SHELL_PORTS]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
