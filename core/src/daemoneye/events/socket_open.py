"""socket_open: a process has a connection, listens, or used a UDP socket for the first time (raw tracepoints, bpf/programs/socket_state.bpf.c)."""

from __future__ import annotations

from daemoneye.events.schema import Field, Record
from daemoneye.events.sockets import SOCKET

SOCKET_OPEN = Record(
    id=10,
    name="socket_open",
    lane="bulk",
    ring="socket",
    ocsf_class=4001,
    ocsf_activity=1,
    doc=(
        "A TCP connection came about, a socket listens, or a UDP socket was used for the first time. Of an inbound connection `time` is when its "
        "process first used it. Addresses of a UDP socket without a peer are zero on the other side."
    ),
    fields=(
        *SOCKET,
        Field(40, "backlog", "u16", "Connections that may wait to be accepted; 0 of sockets that do not listen."),
    ),
)
