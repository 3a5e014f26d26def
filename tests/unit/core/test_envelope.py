"""A batch's header may be anybody's: whatever stands there is a batch or `CorruptData`."""

from __future__ import annotations

import json

import pytest

from daemoneye import envelope
from daemoneye.envelope import Envelope
from daemoneye.errors import CorruptData

ABOUT = Envelope(node="n", boot_id="b", epoch=1, lane="urgent", first_sequence=7, rows=0, clock_offset_ns=-5)


def with_header(text: bytes) -> bytes:
    whole = envelope.encode(ABOUT, [])
    _, size = envelope._PREFIX.unpack_from(whole)
    return envelope._PREFIX.pack(envelope.MAGIC, len(text)) + text + whole[envelope._PREFIX.size + size :]


def header(**changes: object) -> bytes:
    whole = envelope.encode(ABOUT, [])
    _, size = envelope._PREFIX.unpack_from(whole)
    return json.dumps(json.loads(whole[envelope._PREFIX.size :][:size]) | changes).encode()


def test_the_header_is_read_without_the_body() -> None:
    about = envelope.peek(with_header(header()))
    assert about == envelope.decode(with_header(header())).envelope
    assert (about.node, about.first_sequence, about.clock_offset_ns) == ("n", 7, -5)


@pytest.mark.parametrize("name", ["epoch", "seq", "rows", "offset", "first", "last"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1 << 64, -(1 << 64), "x", None, []], ids=str)
def test_a_number_is_one_that_64_bits_hold(name: str, value: object) -> None:
    with pytest.raises(CorruptData, match="batch header"):
        envelope.peek(with_header(header(**{name: value})))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"[" * 100_000, header(sections=[["h", "r", float("inf"), 0, 0, 0]]), header(pos={"exec": float("inf")})],
    ids=["nothing", "a list", "no keys", "deep", "endless rows", "endless position"],
)  # fmt: skip
def test_what_is_no_header_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(CorruptData, match="batch header"):
        envelope.decode(with_header(text))
