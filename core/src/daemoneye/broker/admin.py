"""Making the streams that :mod:`daemoneye.streams` declares, on whatever broker there is.

Responsible for creating and for bringing existing ones to their declaration; not for what is declared.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from daemoneye.errors import DaemonEyeError, MachineError
from daemoneye.streams import Stream

_INSUFFICIENT_STORAGE: Final = 10047
T = TypeVar("T")


async def ensure_streams(jetstream: JetStreamContext, streams: Sequence[Stream], *, replicas: int = 1) -> None:
    """Create every stream, or bring an existing one to its declaration.

    Raises:
        MachineError: The broker's store has no room for what a stream reserves.
        DaemonEyeError: The broker refuses for another reason or does not answer.
    """
    # Asking first: creating a stream that exists asks for its reservation a second time.
    before = {stream.name: await _tried(stream, partial(_reserved, jetstream, stream.name)) for stream in streams}
    # Those that become smaller give the room that others take.
    for stream in sorted(streams, key=lambda stream: stream.max_bytes >= (before[stream.name] or 0)):
        change = jetstream.add_stream if before[stream.name] is None else jetstream.update_stream
        await _tried(stream, partial(change, _config(stream, replicas)))


async def _reserved(jetstream: JetStreamContext, name: str) -> int | None:
    """What a stream reserves, None where there is none."""
    try:
        return (await jetstream.stream_info(name)).config.max_bytes or 0
    except NotFoundError:
        return None


async def _tried(stream: Stream, act: Callable[[], Awaitable[T]]) -> T:
    try:
        return await act()
    except APIError as error:
        if error.err_code == _INSUFFICIENT_STORAGE:
            raise MachineError(
                f"the broker's store has no room for stream {stream.name}, which reserves {stream.max_bytes} bytes",
                fix="give the broker a larger store or the streams smaller limits: each stream's limit is reserved",
            ) from error
        raise DaemonEyeError(f"the broker refused stream {stream.name}: {error.description}") from error
    except (nats.errors.Error, TimeoutError) as error:
        raise DaemonEyeError(f"the broker did not answer about stream {stream.name}: {error}") from error


def _config(stream: Stream, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=stream.name,
        description=stream.description,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy(stream.discard),
        max_bytes=stream.max_bytes,
        max_age=stream.max_age,
        max_msg_size=stream.max_msg_size,
        max_msgs_per_subject=stream.max_per_subject,
        duplicate_window=stream.duplicate_window,
        allow_direct=stream.allow_direct,
        allow_rollup_hdrs=stream.allow_rollup,
        num_replicas=replicas,
    )
