"""The callout's decision, its answers and its bounds. What the real API server and nats-server make of them: tests/integration/test_callout.py."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import secrets
import time
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from daemoneye.broker.roles import permissions
from daemoneye.errors import CorruptData
from daemoneye_operator.callout import claims, decision, reviews
from daemoneye_operator.callout.claims import Question
from daemoneye_operator.callout.decision import Granted, Refused, judge
from daemoneye_operator.callout.issuer import Issuer, new_seed
from daemoneye_operator.callout.reviews import Reviews
from daemoneye_operator.callout.tally import Tally
from daemoneye_operator.errors import ApiError
from tests.chart.chart import ROOT
from tests.unit.operator.factory import settings

NOW = 1_800_000_000.0
EXTRA = "authentication.kubernetes.io/"
GOOD: dict[str, Any] = {
    "authenticated": True,
    "audiences": ["daemoneye-broker.security.daemoneye"],
    "user": {
        "username": "system:serviceaccount:security:daemoneye-sensor",
        "extra": {f"{EXTRA}node-name": ["node.1"], f"{EXTRA}pod-name": ["sensor-x"], f"{EXTRA}pod-uid": ["uid-x"]},
    },
}
QUESTION = Question("NSERVER", "UUSER", "sensor", "token", "10.0.0.1", "daemoneye-sensor node_2e1")


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def user(**changes: Any) -> dict[str, Any]:
    return changed(user={**GOOD["user"], **changes})


# ── decision ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sensors_token_names_its_node_and_pod():
    assert judge(GOOD, settings()) == Granted("node.1", "sensor-x", "uid-x")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, decision.NOT_AUTHENTICATED),
        ({"error": "expired"}, decision.NOT_AUTHENTICATED),
        (changed(authenticated=False), decision.NOT_AUTHENTICATED),
        (changed(authenticated="true"), decision.NOT_AUTHENTICATED),
        (changed(audiences=None), decision.WRONG_AUDIENCE),
        (changed(audiences=[]), decision.WRONG_AUDIENCE),
        (changed(audiences=["https://kubernetes.default.svc"]), decision.WRONG_AUDIENCE),
        (changed(audiences=["daemoneye-broker.security.daemoneye2"]), decision.WRONG_AUDIENCE),
        (changed(user=None), decision.WRONG_ACCOUNT),
        (user(username="system:serviceaccount:security:default"), decision.WRONG_ACCOUNT),
        (user(username="system:serviceaccount:other:daemoneye-sensor"), decision.WRONG_ACCOUNT),
        (user(username="system:serviceaccount:security:daemoneye-sensor2"), decision.WRONG_ACCOUNT),
        (user(username="admin"), decision.WRONG_ACCOUNT),
        (user(extra=None), decision.NO_NODE),
        (user(extra={}), decision.NO_NODE),
        (user(extra={f"{EXTRA}node-name": []}), decision.NO_NODE),
        (user(extra={f"{EXTRA}node-name": [""]}), decision.NO_NODE),
        (user(extra={f"{EXTRA}node-name": ["a", "b"]}), decision.NO_NODE),
        (user(extra={f"{EXTRA}node-name": "a"}), decision.NO_NODE),
    ],
)
def test_everything_else_is_refused_with_its_reason(status: dict[str, Any], reason: str):
    refused = judge(status, settings())
    assert isinstance(refused, Refused)
    assert refused.reason == reason
    assert refused.message


def test_a_refusal_names_node_and_pod_where_they_are_known():
    refused = judge(changed(audiences=[]), settings())
    assert isinstance(refused, Refused)
    assert (refused.node, refused.pod) == ("node.1", "sensor-x")


def test_each_reason_is_in_the_docs():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert [reason for reason in decision.REASONS if f"`{reason}`" not in text] == []


# ── question and answer ─────────────────────────────────────────────────────────────────────────────────────────────


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def asked(**nats: Any) -> bytes:
    about = {
        "server_id": {"id": "NSERVER"}, "user_nkey": "UUSER", "client_info": {"host": "10.0.0.1"},
        "connect_opts": {"user": "sensor", "pass": "token", "name": "daemoneye-sensor node_2e1"},
    }  # fmt: skip
    return f"{part({'alg': 'x'})}.{part({'nats': {**about, **nats}})}.sig".encode()


def test_a_question_is_read_and_never_shows_its_password():
    question = Question.read(asked())
    assert question == QUESTION
    assert "token" not in repr(question)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"a.b.c", b"a.b", asked(server_id=None), asked(connect_opts=[]), b"x" * (claims.MAX_BYTES + 1), b"\xff.\xff.\xff",
     f"a.{part([])}.c".encode(), f"a.{part({})}.c".encode()],
)  # fmt: skip
def test_what_is_no_question(data: bytes):
    with pytest.raises(CorruptData, match="question"):
        Question.read(data)


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_question_or_none(data: bytes):
    for text in (data, b"a." + base64.urlsafe_b64encode(data) + b".c"):
        with contextlib.suppress(CorruptData):
            Question.read(text)


def test_a_granted_connection_is_one_nodes_and_ends():
    lives = {claims.granted(QUESTION, "node.1", NOW)["exp"] - NOW for _ in range(50)}
    assert claims.LIFE_S - claims.JITTER_S <= min(lives) < max(lives) <= claims.LIFE_S
    made = claims.granted(QUESTION, "node.1", NOW)
    assert (made["sub"], made["aud"], made["name"]) == ("UUSER", "SENSORS", "sensor node_2e1")
    nats = made["nats"]
    assert nats["allowed_connection_types"] == ["STANDARD"]
    assert (nats["pub"], nats["sub"]) == tuple(permissions("sensor", "node_2e1").values())
    assert "resp" not in nats
    subjects = [subject for side in ("pub", "sub") for subject in nats[side]["allow"]]
    assert ">" not in subjects
    shared = {"daemoneye.v1.schemas.*", "$JS.API.DIRECT.GET.KV_daemoneye_configs.$KV.daemoneye_configs.*"}
    assert {subject for subject in subjects if "node_2e1" not in subject.split(".")} == shared


@pytest.mark.parametrize("node", ["*", ">", "a.b", "a b", "node.1.>", "ä"])
def test_no_name_of_a_node_widens_a_subject(node: str):
    for side in ("pub", "sub"):
        for subject in claims.granted(QUESTION, node, NOW)["nats"][side]["allow"]:
            plain = claims.granted(QUESTION, "n", NOW)["nats"][side]["allow"]
            assert subject.count(".") in {p.count(".") for p in plain}
            assert subject.isascii()
            assert " " not in subject


# ── the key ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_seeds_are_those_of_nkeys():
    """The pair that NATS' own documentation uses."""
    seed = b"SAANDLKMXL6CUS3CP52WIXBEDN6YJ545GDKC65U5JZPPV6WH6ESWUA6YAI"
    assert Issuer(seed).public == "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"


def test_a_signature_is_of_its_key():
    seeds = new_seed(), new_seed()
    assert seeds[0] != seeds[1]
    issuer = Issuer(seeds[0])
    token = issuer.sign({"sub": "x"})
    signed, _, signature = token.rpartition(".")
    assert claims.payload(token)["iss"] == issuer.public
    raw = base64.urlsafe_b64decode(signature + "==")
    for seed, good in zip(seeds, (True, False), strict=True):
        key = Ed25519PublicKey.from_public_bytes(base64.b32decode(Issuer(seed).public)[1:-2])
        if good:
            key.verify(raw, signed.encode())
        else:
            with pytest.raises(InvalidSignature):
                key.verify(raw, signed.encode())


@given(
    st.one_of(st.binary(max_size=80), st.integers(0, 57).map(lambda at: new_seed()[:at] + b"A" + new_seed()[at + 1 :]))
)
def test_whatever_is_stored_is_a_seed_or_none(stored: bytes):
    with contextlib.suppress(ValueError):
        assert Issuer(stored).public.startswith("A")


# ── asking, within bounds ───────────────────────────────────────────────────────────────────────────────────────────


class Api:
    """An API server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.open = self.most = 0
        self.go = asyncio.Event()
        self.go.set()
        self.answer: Any = {"status": GOOD}

    async def create(self, path: str, obj: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        self.asked.append(obj["spec"])
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        try:
            await self.go.wait()
        finally:
            self.open -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return dict(self.answer)


def token(**payload: Any) -> str:
    return f"{part({})}.{part(payload)}.x"


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def asking(api: Api) -> Reviews:
    return Reviews(api, settings(), Tally())  # type: ignore[arg-type]


async def test_a_good_token_is_asked_about_once_a_minute_and_never_beyond_its_end(api: Api, asking: Reviews):
    long, short, endless = token(exp=time.time() + 3600), token(exp=time.time() - 1), token()
    for _ in range(3):
        for one in (long, short, endless):
            assert await asking.decide(one) == Granted("node.1", "sensor-x", "uid-x")
    asked = [spec["token"] for spec in api.asked]
    assert {one: asked.count(one) for one in (long, short, endless)} == {long: 1, short: 3, endless: 1}
    assert api.asked[0]["audiences"] == ["daemoneye-broker.security.daemoneye"]


async def test_a_refusal_is_not_remembered(api: Api, asking: Reviews):
    api.answer = {"status": {"error": "expired"}}
    assert isinstance(await asking.decide(token()), Refused)
    api.answer = {"status": GOOD}
    assert isinstance(await asking.decide(token()), Granted)


async def test_what_is_no_token_reaches_nobody(api: Api, asking: Reviews):
    for text, reason in (
        ("", decision.NO_TOKEN),
        ("x" * (reviews.MAX_TOKEN + 1), decision.TOO_LONG),
        (secrets.token_urlsafe(32), decision.NOT_AUTHENTICATED),  # what sensors had before
        ("a.\ud800.c", decision.NOT_AUTHENTICATED),
        ("..", decision.NOT_AUTHENTICATED),
    ):
        refused = await asking.decide(text)
        assert isinstance(refused, Refused)
        assert refused.reason == reason
    assert api.asked == []


async def test_a_thousand_at_once_are_sixteen_at_a_time(api: Api, asking: Reviews, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reviews, "_WITHIN_S", 60)
    decisions = await asyncio.gather(*(asking.decide(token(n=n)) for n in range(1000)))
    assert all(isinstance(one, Granted) for one in decisions)
    assert (api.most, len(api.asked)) == (reviews.AT_ONCE, 1000)


async def test_who_waits_too_long_or_comes_too_late_comes_again(
    api: Api, asking: Reviews, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reviews, "WAITING", 20)
    monkeypatch.setattr(reviews, "_WITHIN_S", 0.05)
    api.go.clear()
    decisions = await asyncio.gather(*(asking.decide(token(n=n)) for n in range(25)))
    assert {one.reason for one in decisions if isinstance(one, Refused)} == {decision.BUSY}
    assert len(decisions) == 25
    assert len(api.asked) == reviews.AT_ONCE
    api.go.set()
    monkeypatch.setattr(reviews, "_WITHIN_S", 60)
    assert isinstance(await asking.decide(token(n=1)), Granted)


async def test_what_is_found_out_too_late_is_known_when_the_sensor_comes_again(
    api: Api, asking: Reviews, monkeypatch: pytest.MonkeyPatch
):
    """With a slow API server a thousand sensors would otherwise ask for ever, each time anew."""
    monkeypatch.setattr(reviews, "_WITHIN_S", 0.01)
    api.go.clear()
    for _ in range(3):
        decisions = await asyncio.gather(*(asking.decide(token(n=n)) for n in range(40)))
        assert {one.reason for one in decisions if isinstance(one, Refused)} == {decision.BUSY}
    api.go.set()
    monkeypatch.setattr(reviews, "_WITHIN_S", 60)
    decisions = await asyncio.gather(*(asking.decide(token(n=n)) for n in range(40)))
    assert all(isinstance(one, Granted) for one in decisions)
    assert (api.most, len(api.asked)) == (reviews.AT_ONCE, 40)


async def test_an_api_server_that_is_away_is_said_without_the_token(api: Api, asking: Reviews):
    secret = token(secret="s")
    api.answer = ApiError(f"POST: no answer about {secret}", status=0)
    refused = await asking.decide(secret)
    assert isinstance(refused, Refused)
    assert refused.reason == decision.API_UNAVAILABLE
    assert secret not in refused.message + asking.trouble
    api.answer = ApiError("not text", status=400)
    refused = await asking.decide(secret)
    assert isinstance(refused, Refused)
    assert refused.reason == decision.NOT_AUTHENTICATED
    api.answer = {"status": {"error": f"no such token: {secret}"}}
    refused = await asking.decide(secret)
    assert isinstance(refused, Refused)
    assert secret not in refused.message
    assert asking.trouble == ""


# ── what is counted and said ────────────────────────────────────────────────────────────────────────────────────────


def test_of_refusals_one_a_minute_and_reason_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            tally.decided(Refused(decision.BUSY, "many\n\x1b[31m", "node.1", "sensor-x"), "10.0.0.1", "c")
            tally.decided(Refused(decision.NO_TOKEN, "none"), "", "")
        now[0] += 61
        tally.decided(Refused(decision.BUSY, "many"), "10.0.0.1", "c")
    assert tally.refused == {decision.BUSY: 1001, decision.NO_TOKEN: 1000}
    lines = caplog.messages
    assert len(lines) == 3
    assert "Busy: refused: many" in lines[0]
    assert "(node node.1, pod sensor-x, from 10.0.0.1)" in lines[0]
    assert "\x1b" not in lines[0]
    assert "\n" not in lines[0]
    assert lines[1] == "NoToken: refused: none (no name, from ?)"
    assert lines[2].endswith("; 999 more since the last line")


def test_who_is_let_in_and_what_fails_is_counted():
    tally = Tally()
    tally.decided(Granted("n"), "", "")
    tally.failed("x")
    assert (tally.granted, tally.errors) == (1, 1)
