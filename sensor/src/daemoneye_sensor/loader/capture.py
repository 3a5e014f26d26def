"""The compile child of packet capture: compiles and loads programs with BCC and hands their descriptors over, exits. It pins nothing.

It is run as `/usr/bin/python3 -I capture.py FD` with a JSON request on stdin; FD is one end of a socket pair, over which the answer goes: JSON, with
the descriptors that were asked for in order beside it. It imports the standard library and the distribution's bcc only.

Request: {"text": the programs, "defines": {name: number or C}, "functions": [socket filters], "maps": [names], "xdp": {"text": XDP programs that use
those maps, "functions": [names]} or null}. The descriptors of XDP programs are the last.
Answer: {"ok": true, "xdp": why there are no XDP programs, or ""} or {"error": text, "fix": text}.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from headers import HeadersError, prepare


def load(request: dict[str, Any]) -> tuple[list[int], str]:
    """Compile and load; the descriptors in order, and why there are no XDP programs."""
    from bcc import BPF

    cflags = [f"-D{name}={value}" for name, value in request["defines"].items()]
    # BCC's own headers redefine macros of other kernel versions: noise that would hide a real message.
    cflags += ["-Wno-macro-redefined", "-Wno-unused-label"]
    program = BPF(text=request["text"], cflags=cflags)
    functions = [program.load_func(name, BPF.SOCKET_FILTER).fd for name in request["functions"]]
    descriptors = [*functions, *(program[name].map_fd for name in request["maps"])]
    refused = ""
    if xdp := request.get("xdp"):
        try:
            other = BPF(text=xdp["text"], cflags=[*cflags, "-DDE_XDP"])
            descriptors += [other.load_func(name, BPF.XDP).fd for name in xdp["functions"]]
        except Exception as failure:  # noqa: BLE001 - as below; the others do without
            refused = str(failure)
    # BCC closes them when its objects go.
    return [os.dup(fd) for fd in descriptors], refused


def main() -> int:
    """Exit status 0 when all was handed over, 1 otherwise; the answer says why."""
    request = json.load(sys.stdin)
    error = fix = refused = ""
    descriptors: list[int] = []
    try:
        with prepare() or contextlib.nullcontext():
            descriptors, refused = load(request)
    except ImportError as missing:
        error, fix = f"BCC for {sys.executable} is missing ({missing})", "apt-get install python3-bpfcc"
    except HeadersError as missing:
        error = str(missing)
        fix = f"apt-get install linux-headers-{os.uname().release} (or linux-headers-amd64 / linux-headers-generic)"
    except Exception as failure:  # noqa: BLE001 - BCC raises bare Exception; whatever it is, the parent must hear of it
        error = f"{type(failure).__name__}: {failure}"
    answer = {"error": error, "fix": fix} if error else {"ok": True, "xdp": refused}
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        socket.send_fds(parent, [json.dumps(answer).encode()], descriptors)
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
