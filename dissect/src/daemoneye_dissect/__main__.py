# SPDX-License-Identifier: GPL-2.0-only
"""``python -m daemoneye_dissect``: answer requests until stdin ends. The package's docstring says what passes the pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from daemoneye_dissect import layers, limits, messages, pcapng

_DISSECT_S: Final = 5.0
_PCAPNG_S: Final = 20.0
_BROKEN: Final = 2


def main() -> int:
    """Serve; the exit status is 0 at the end of stdin, 2 after something that is no message."""
    layers.load()
    user = limits.confine()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    messages.write(sink, {"ready": True, "user": user})
    try:
        while (message := messages.read(source)) is not None:
            _answer(sink, *message)
    except messages.NoMessage as error:
        messages.write(sink, {"id": 0, "ok": False, "error": str(error)})
        return _BROKEN
    except BrokenPipeError:  # nobody listens any more
        return 0
    return 0


def _answer(sink: BinaryIO, request: Mapping[str, Any], body: bytes) -> None:
    number, do = request.get("id", 0), request.get("do")
    number = number if isinstance(number, int) else 0
    content = b""
    try:
        if do == "dissect":
            with limits.within(_DISSECT_S):
                answer = layers.dissect(body, int(request.get("link", 1)))
        elif do == "pcapng":
            with limits.within(_PCAPNG_S):
                frames, content = pcapng.blocks(request, body)
            answer = {"frames": frames}
        else:
            raise pcapng.BadRequest(f"there is no request {str(do)[:40]!r}: dissect, pcapng")
    except pcapng.BadRequest as error:
        messages.write(sink, {"id": number, "ok": False, "error": str(error)})
    except Exception as error:  # noqa: BLE001 - scapy on bytes of an attacker's choice: MemoryError and RecursionError, too
        text = f"{type(error).__name__}: {error}"[:200].encode("utf-8", "backslashreplace").decode()
        messages.write(sink, {"id": number, "ok": False, "error": text})
    else:
        messages.write(sink, {"id": number, "ok": True, **answer}, content)


if __name__ == "__main__":
    sys.exit(main())
