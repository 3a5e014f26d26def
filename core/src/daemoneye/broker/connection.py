"""nats-py's client with the habit that it lacks: a broker that has fallen silent is given up soon, and at once.

Responsible for how soon silence is noticed and for the end of such a connection; not for making another one.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from nats.aio.client import Client, Srv
from nats.errors import StaleConnectionError

PING_S: Final = 5
PINGS: Final = 1
"""A PING every five seconds, of which one may be unanswered: whoever is silent (a host that is gone, packets that are dropped) is given up after five to ten
seconds, not after the thirty of pings every ten seconds. It is as long as the publisher waits for an acknowledgement: a batch that takes longer on the
line, which the answer has to wait behind, is sent again anyway. Five thousand sensors cost the broker a thousand pings a second."""


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
            self.abort()
        await super()._process_op_err(e)

    async def _connect_to_server(self, s: Srv) -> None:
        # One before that took the connection and said nothing nats-py leaves open.
        self._cut()
        await super()._connect_to_server(s)

    def _cut(self) -> None:
        writer = getattr(getattr(self, "_transport", None), "_io_writer", None)
        if writer is not None:
            # A TLS transport that asyncio has taken apart already says so in this way (Python 3.11).
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
