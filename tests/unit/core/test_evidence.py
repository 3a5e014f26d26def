"""Documents about evidence: they come back as they were, and a node's or a stranger's word is bounded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from daemoneye.errors import CorruptData
from daemoneye.evidence import CHUNK, KEPT, MAX_CONVERSATIONS, Arm, Conversation, Entry, Kept, is_finding_id

ID = "0123456789abcdef" * 2
TALK = Conversation("10.0.0.1", "2001:db8::1", 4711, 443, "tcp")
ARM = Arm(ID, "n1", 60, 1 << 20, (TALK, Conversation("10.0.0.1")), "u-1")
DONE = Kept(ID, "n1", "ab" * 11, 3 * CHUNK, 3, "0f" * 32, 100, 1, 2, 3, complete=False)


def changed(document: bytes, **values: object) -> bytes:
    return json.dumps({**json.loads(document), **values}).encode()


def test_documents_come_back():
    assert Arm.decode(ARM.encode()) == ARM
    assert Arm.decode(changed(ARM.encode(), later="x")) == ARM
    assert Kept.decode(DONE.encode()) == DONE
    assert Kept.decode(Kept(ID, "n1", problem="no interface").encode()).problem == "no interface"
    entry = Entry(ID, "n1", "shop", KEPT, 5, 60, "", json.loads(DONE.encode()))
    assert Entry.decode(entry.encode("bucket", "n1.abc")) == entry
    assert [is_finding_id(text) for text in (ID, ID[1:], ID.upper(), ID + "\n")] == [True, False, False, False]


def test_an_entry_is_what_object_stores_expect():
    entry = Entry(ID, "n1", "shop", KEPT, kept=json.loads(DONE.encode()))
    info = json.loads(entry.encode("bucket", "n1.abc"))
    assert (info["name"], info["bucket"], info["nuid"], info["size"], info["chunks"]) == (
        ID, "bucket", "n1.abc", 3 * CHUNK, 3,
    )  # fmt: skip
    assert info["digest"].startswith("SHA-256=Dw8P")


@pytest.mark.parametrize(
    "values",
    [
        {"finding": "../x"}, {"finding": None}, {"seconds": 0}, {"seconds": 86_400}, {"seconds": "x"}, {"max_bytes": 1 << 40}, {"max_bytes": None},
        {"seconds": float("inf")},
        {"conversations": 7}, {"conversations": ["x"]}, {"conversations": [{"src_ip": "nowhere"}]}, {"conversations": [{"dst_ip": "10.0.0.1"}]},
        {"conversations": [{"src_ip": "10.0.0.1", "src_port": 1 << 20}]}, {"conversations": [{"src_ip": "10.0.0.1", "proto": "x"}]},
    ],
)  # fmt: skip
def test_a_request_beyond_bounds_is_refused(values):
    with pytest.raises(CorruptData, match="keep packets"):
        Arm.decode(changed(ARM.encode(), **values))


def test_conversations_are_bounded():
    many = changed(ARM.encode(), conversations=[{"src_ip": f"10.0.{n}.1"} for n in range(200)])
    assert len(Arm.decode(many).conversations) == MAX_CONVERSATIONS


@pytest.mark.parametrize(
    "values",
    [
        {"finding": "x"}, {"upload": "../../x"}, {"upload": "a.b" * 6}, {"upload": ""}, {"sha256": "x"}, {"size": 0}, {"size": 1 << 40}, {"size": "x"},
        {"chunks": 0}, {"chunks": 1 << 20}, {"frames": -1}, {"first": 1 << 70}, {"dropped": []}, {"frames": float("inf")},
    ],
)  # fmt: skip
def test_a_description_that_contradicts_itself_is_refused(values):
    with pytest.raises(CorruptData, match="kept packets"):
        Kept.decode(changed(DONE.encode(), **values))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 10_000, b'"x"', b" " * (1 << 20)])
@pytest.mark.parametrize("kind", [Arm, Kept, Entry])
def test_what_is_no_document_is_refused(kind, data):
    with pytest.raises(CorruptData):
        kind.decode(data)


def test_an_entry_of_a_state_that_is_none_is_refused():
    with pytest.raises(CorruptData, match="its state"):
        Entry.decode(replace(Entry(ID, "n1", "shop"), state="sold").encode("b", ""))
