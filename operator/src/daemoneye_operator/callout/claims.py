"""What nats-server asks the callout, and what it is answered (NATS ADR-26).

Responsible for the form of both; not for the decision (:mod:`daemoneye_operator.callout.decision`) nor for the signature
(:mod:`daemoneye_operator.callout.issuer`). The question's own signature is not looked at: it is the server's with a key that it makes anew at
each start, so that it would say nothing. That a question is the server's is known by its subject, to which nobody else may publish.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
from dataclasses import dataclass, field
from typing import Any, Final, Self

from daemoneye import subjects
from daemoneye.broker import roles
from daemoneye.errors import CorruptData
from daemoneye_operator import brokerconf

SENSOR: Final = "sensor"
LIFE_S: Final = 24 * 3600
"""How long nats-server lets a sensor stay on what it proved at connect. Then it is cut, and connects again with the token of that time. It is
the time for which one that was revoked goes on at most, and the time that callout and API server may be away without cutting anybody."""
JITTER_S: Final = 4 * 3600
"""Each sensor's time is shorter by up to this: those that connected together do not come back together."""
MAX_BYTES: Final = 64 * 1024
"""Largest question that is read."""
_VERSION: Final = 2
_NO_LIMIT: Final = -1


@dataclass(frozen=True, slots=True)
class Question:
    """Who wants to connect.

    Attributes:
        server: Public key of the server that asks: the answer's audience.
        subject: Public key that the server made for this connection: whom the answer is about.
        user: The name that it gave.
        password: What it gave as a password: a sensor's token.
        host: Its address.
        client: What it calls itself.
    """

    server: str
    subject: str
    user: str
    password: str = field(repr=False)
    host: str = ""
    client: str = ""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """From the message of the server.

        Raises:
            CorruptData: It is no such question.
        """
        if len(data) > MAX_BYTES:
            raise CorruptData(f"a question of {len(data)} bytes; at most {MAX_BYTES} are read")
        try:
            asked = payload(data.decode("ascii"))["nats"]
            given, about = asked["connect_opts"], asked.get("client_info") or {}
            return cls(
                server=str(asked["server_id"]["id"]), subject=str(asked["user_nkey"]), user=str(given.get("user", "")),
                password=str(given.get("pass", "")), host=str(about.get("host", ""))[:64], client=str(given.get("name", ""))[:320],
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # Not the error's own words: they might quote the password.
            raise CorruptData(f"not a question of nats-server: {type(error).__name__}") from None


def payload(token: str) -> dict[str, Any]:
    """What a JWT claims, whoever signed it.

    Raises:
        ValueError: It is no JWT.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    try:
        value = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, RecursionError) as error:
        raise ValueError("not base64 of JSON") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - of the text, not of an argument
    return value


def granted(
    question: Question, node: str, now: float, *, life: float = LIFE_S, jitter: float = JITTER_S
) -> dict[str, Any]:
    """Claims of the user that a connection becomes: the sensor of one node (its plain name), in the sensors' account."""
    token = subjects.escape_node(node)
    may = roles.permissions(SENSOR, token)
    return {
        "sub": question.subject,
        "aud": brokerconf.SENSORS,
        "name": f"{SENSOR} {token}",  # what the broker's monitoring shows
        "iat": int(now),
        "exp": int(now + life - random.uniform(0, jitter)),  # noqa: S311 - spreads sensors in time
        "nats": {
            "type": "user",
            "version": _VERSION,
            "pub": may["publish"],
            "sub": may["subscribe"],
            # nats-server does not hold a callout's user to these: limits are the account's.
            "subs": _NO_LIMIT,
            "data": _NO_LIMIT,
            "payload": _NO_LIMIT,
            "allowed_connection_types": ["STANDARD"],
        },
    }


def answer(question: Question, now: float, *, user: str = "", error: str = "") -> dict[str, Any]:
    """Claims of the answer: the user's JWT, or why there is none, which the server writes into its log."""
    said = {"jwt": user} if user else {"error": error}
    return {
        "sub": question.subject,
        "aud": question.server,
        "iat": int(now),
        "nats": {"type": "authorization_response", "version": _VERSION, **said},
    }
