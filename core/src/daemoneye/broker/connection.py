"""nats-py's client with the habit that it lacks: a broker that has fallen silent is given up soon, and at once.

Responsible for how soon silence is noticed and for the end of such a connection; not for making another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from fcntl import ioctl
from termios import FIONREAD
from typing import Any, Final

from nats.aio.client import Client, Srv
from nats.errors import StaleConnectionError

PING_S: Final = 5
PINGS: Final = 1
"""A PING every five seconds, of which one may be unanswered: whoever is silent (a host that is gone, packets that are dropped) is given up after five to ten
seconds, not after the thirty of pings every ten seconds. It is as long as the publisher waits for an acknowledgement: a batch that takes longer on the
line, which the answer has to wait behind, is sent again anyway. Five thousand sensors cost the broker a thousand pings a second."""
_TCP_INFO: Final[int] = getattr(socket, "TCP_INFO", 0)
"""Linux's; the command line, which reads little, may run elsewhere."""
_LAST_DATA_RECEIVED: Final = 52
"""Of struct tcp_info, tcpi_last_data_recv: milliseconds since the other side's last data."""


class Connection(Client):
    """A client; `connect` takes nats-py's options."""

    async def connect(self, *args: Any, **options: Any) -> None:
        """As nats-py's, with an end to silence."""
        await super().connect(*args, **{"ping_interval": PING_S, "max_outstanding_pings": PINGS, **options})

    def abort(self) -> None:
        """Take the connection down without a farewell, which a silent broker does not answer: TLS waits half a minute for it, and what is pending for ever.

        What is pending goes out over the next connection if nats-py makes that, and is dropped otherwise.
        """
        if not self.options.get("allow_reconnect"):
            self._pending, self._pending_data_size = [], 0
        self._cut()

    async def _process_op_err(self, e: Exception) -> None:
        if isinstance(e, StaleConnectionError):
            if asyncio.current_task() is self._ping_interval_task and self._speaks():
                # Its answer waits behind what it sends, and that for us: looked at again with the next ping.
                self._pings_outstanding = self.options["max_outstanding_pings"]
                self._ping_interval_task = asyncio.get_running_loop().create_task(self._ping_interval())
                return
            self.abort()
        await super()._process_op_err(e)

    async def _process_pong(self) -> None:
        # nats-py's reader ends for good at an answer that nobody waits for any more.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    def _speaks(self) -> bool:
        """Whether anything came since the last ping, by the kernel's word, or waits there: we may be slow ourselves."""
        writer = self._writer()
        wire = writer.get_extra_info("socket") if writer else None
        if wire is None or not _TCP_INFO or self._reading_task is None or self._reading_task.done():
            return False
        try:
            (silent_ms,) = struct.unpack_from(
                "I", wire.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256), _LAST_DATA_RECEIVED
            )
            (waiting,) = struct.unpack("i", ioctl(wire.fileno(), FIONREAD, bytes(4)))
        except OSError:
            return False
        return bool(silent_ms < 1000 * self.options["ping_interval"] or waiting)

    async def _connect_to_server(self, s: Srv) -> None:
        # One before that took the connection and said nothing nats-py leaves open.
        self._cut()
        await super()._connect_to_server(s)

    def _writer(self) -> asyncio.StreamWriter | None:
        return getattr(getattr(self, "_transport", None), "_io_writer", None)

    def _cut(self) -> None:
        if writer := self._writer():
            # A TLS transport that asyncio has taken apart already says so in this way (Python 3.11).
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
