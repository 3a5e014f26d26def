"""Descriptors of schemas, as the broker keeps them: what a reader needs of a schema that its release does not know.

Responsible for reading one and for holding it against its name. Every sensor may write there: only what has the hash that it is asked for by is a
descriptor, and none may make rows much larger than the bytes that they came as.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from daemoneye import subjects
from daemoneye.errors import ConfigError, CorruptData
from daemoneye.events.registry import BY_NAME
from daemoneye.events.schema import Record

MAX_BYTES: Final = 64 * 1024
"""Sixteen times today's largest."""
_GROWTH: Final = 2
_FIELDS: Final = 128
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


async def read(jetstream: JetStreamContext, schema: str) -> Record | None:
    """The record of a schema's hash; None if the broker has none.

    Raises:
        CorruptData: What it has is no descriptor of this hash that this release can read.
        nats.errors.Error: The broker does not answer.
    """
    try:
        # Directly: the command line may ask for nothing else.
        message = await jetstream.get_last_msg(subjects.SCHEMAS, subjects.schemas(schema), direct=True)
    except ConfigError as error:
        raise CorruptData(str(error)) from error
    except NotFoundError:
        return None
    return parse(schema, message.data or b"")


def parse(schema: str, data: bytes) -> Record:
    """The record of a descriptor.

    Raises:
        CorruptData: It is too long, of another form, not what its hash says, or of rows that have little in common with ours.
    """
    if len(data) > MAX_BYTES:
        raise CorruptData(f"the descriptor of schema {schema} has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        record = _record(json.loads(data))
        known, sizes = record.hash, (record.wire_dtype.itemsize, record.dtype.itemsize)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptData(
            f"the descriptor of schema {schema} is of a form that this release does not know: {error!r}"
        ) from error
    if known != schema:
        raise CorruptData(f"what the broker has as the descriptor of schema {schema} is another one's: {known}")
    today = BY_NAME.get(record.name)
    if _GROWTH * sizes[0] < max(sizes[1], today.dtype.itemsize if today else 0, 16):
        raise CorruptData(f"schema {schema} of {record.name!r} has too little in common with what this release reads")
    return record


def _record(descriptor: Any) -> Record:
    record = Record.from_descriptor(descriptor)
    names = record.name, *(field.name for field in record.fields)
    if len(names) > 1 + _FIELDS or not all(map(_NAME.fullmatch, names)):
        msg = f"more than {_FIELDS} fields, or a name that is none"
        raise ValueError(msg)
    columns = {field.name for field in record.fields if not field.heap}
    for field in record.fields:
        if field.key_of and (field.type != "u64" or not columns.issuperset(field.key_of)):
            msg = f"{field.name} is the key of {field.key_of}"
            raise ValueError(msg)
        if field.delta and field.type not in ("u16", "u32", "i32", "u64", "i64"):
            msg = f"{field.name} cannot be a difference"
            raise ValueError(msg)
    return record
