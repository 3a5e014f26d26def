"""Single values of a KV bucket, for readers without a right to JetStream's API.

Responsible for the request by subject (JetStream's direct get, ADR-31) and for telling a value from its removal; writing uses nats-py's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from daemoneye import subjects

_OPERATION: Final = "KV-Operation"


async def read(client: Client, bucket: str, key: str, timeout: float = 2.0) -> bytes | None:  # noqa: ASYNC109 - nats-py's own
    """The value of a key; None where there is none.

    Raises:
        nats.errors.Error: The broker does not answer, or has no such bucket.
    """
    message = await client.request(subjects.direct_get(bucket, key), b"", timeout=timeout)
    status = (message.headers or {}).get("Status")
    if status == "404":
        return None
    if status is not None:
        raise NatsError(f"bucket {bucket}: {status} {(message.headers or {}).get('Description', '')}".strip())
    return value(message)


def value(message: Msg) -> bytes | None:
    """What a message of a bucket says: a value, or None for a key that was removed."""
    headers: Mapping[str, str] = message.headers or {}
    return None if headers.get(_OPERATION) in ("DEL", "PURGE") else message.data
