"""TLS over TCP: the client's hello and what the server shows of itself, out of the two directions of a connection."""

from __future__ import annotations

from daemoneye.events.flags import Flag
from daemoneye.events.tls_client_hello import TLS_CLIENT_HELLO
from daemoneye_sensor.l7 import ja, sslv2, tls
from daemoneye_sensor.l7.errors import Malformed
from daemoneye_sensor.packets.rows import Ends, Rows
from daemoneye_sensor.packets.stream import Stream

_UNSEEN, _HIDDEN, _PARTIAL, _ECH, _NAMELESS = map(
    int, (Flag.RESPONSE_UNSEEN, Flag.CERTIFICATE_HIDDEN, Flag.PARTIAL, Flag.ECH, Flag.SNI_ABSENT)
)


def begins(payload: bytes) -> bool:
    """Whether a segment begins a client's hello, or may."""
    return tls.looks_like(payload) or sslv2.looks_like(payload)


def hello_flags(hello: tls.ClientHello) -> int:
    """What a row's flags say of a ClientHello."""
    return (_ECH if hello.ech else 0) | (0 if hello.sni_seen else _NAMELESS)


class Handshake:
    """One of them.

    Attributes:
        done: Nothing more is awaited, and its row, if it is to have one, was told.
        incomplete: Whether the end of its hello was not seen.
    """

    service = "tls"

    def __init__(self, ends: Ends, time: int, *, client_out: bool, ja3: bool = True, policy_set: int = 0) -> None:
        """Begin with the ends of client and server.

        `client_out`: the client is whoever opened the conversation; `ja3`: it is wanted; `policy_set`: who asks for it.
        """
        self.done = False
        self._ja3 = ja3
        self._policy_set = policy_set
        self.incomplete = True
        self._ends = ends
        self._time = time
        self._client_out = client_out
        self._client: Stream | None = None
        self._server: Stream | None = None
        self._hello: tls.ClientHello | None = None

    def add(self, rows: Rows, time: int, sequence: int, payload: bytes, *, out: bool, policy_set: int = 0) -> None:  # noqa: ARG002 - as all that read a connection
        """A segment.

        Raises:
            Malformed: It is no handshake.
        """
        if out == self._client_out:
            if self._hello is not None:
                return
            if self._client is None:
                self._client = Stream(sequence)
            if self._client.add(sequence, payload):
                data = self._client.data
                self._hello = (sslv2 if data[0] & 0x80 else tls).client_hello(data)
                self.incomplete = self._hello is None
        else:
            if self._server is None:
                if not tls.answers(payload):
                    return
                self._server = Stream(sequence)
            self._server.add(sequence, payload)
        if self._hello is None or self._server is None:
            return
        answer = tls.server_certificates(self._server.data)
        if answer is not None or self._server.full:
            self._tell(rows, answer or self._greeting(), partial=answer is None)

    def end(self, rows: Rows) -> None:
        """No more comes: tell what there is."""
        if not self.done and self._hello is not None:
            self._tell(rows, self._greeting(), partial=True)
        self.done = True

    def _greeting(self) -> tls.Certificate | None:
        """The server's hello by itself: the certificate behind it did not come, or cannot be read."""
        try:
            return tls.server_hello(self._server.data) if self._server is not None else None
        except Malformed:
            return None

    def _tell(self, rows: Rows, answer: tls.Certificate | None, *, partial: bool = False) -> None:
        self.done = True
        hello = self._hello
        if hello is None:
            return
        flags = hello_flags(hello)
        values: dict[str, object] = {}
        if answer is None:
            flags |= _UNSEEN
        else:
            flags |= _HIDDEN if answer.given == "hidden" else _PARTIAL if partial else 0
            values = {
                "server_version": answer.version, "server_cipher": f"{answer.cipher:04x}", "certificate_subject": answer.subject,
                "certificate_issuer": answer.issuer, "certificate_sha256": answer.sha256,
            }  # fmt: skip
        rows.add(
            TLS_CLIENT_HELLO, self._ends, self._time, flags, sni=hello.sni, alpn=hello.alpn, version=hello.version, ja3=ja.ja3(hello) if self._ja3 else "",
            ja4=ja.ja4(hello, "t"), hello_bytes=min(hello.length, 0xFFFF), policy_set=self._policy_set, **values,
        )  # fmt: skip
