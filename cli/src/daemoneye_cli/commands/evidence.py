"""``daemoneye evidence``: the packets that this machine's sensor kept because of a finding, as a capture file.

Responsible for reading them from the running installation's broker: whoever may read its state directory may have them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import re
from pathlib import Path
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from daemoneye import subjects
from daemoneye.errors import ConfigError, CorruptData, MachineError
from daemoneye.evidence import ARMED, FAILED, Entry
from daemoneye_cli import client, wholefile
from daemoneye_cli.commands.options import Subparsers, add_state, command, say
from daemoneye_cli.state import State

_TIMEOUT_S: Final = 30
_ID: Final = re.compile(r"[0-9a-f]{32}")
_OFF: Final = (
    "evidence is kept while a policy has networkMonitoring.enablePacketCapture and evidence.enabled: docs/evidence.md"
)


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "evidence", "Fetch the packets that were kept because of a finding, as a pcapng file.")
    parser.add_argument("finding", metavar="FINDING", help="a finding's id: daemoneye findings -o json")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="where to write it; must not exist"
    )
    add_state(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch it."""
    if options.output.exists():
        raise ConfigError(f"-o {options.output}: it exists already")
    if not _ID.fullmatch(options.finding):
        raise ConfigError(
            f"{options.finding}: write a finding's id, 32 hex digits: daemoneye findings -o json has it "
            "(a cluster's findings: kubectl daemoneye evidence)"
        )
    access = State.at(options.state).read_private("cli.json")
    data = asyncio.run(_fetch(access, options.finding))
    size = wholefile.write(options.output, io.BytesIO(data), len(data))
    say(f"{size} bytes written to {options.output}")
    return 0


async def _fetch(access: dict[str, object], finding: str) -> bytes:
    """The file's bytes.

    Raises:
        MachineError: There is none, not yet, or not any more.
    """
    connection = await client.connect(access, name="daemoneye evidence")
    try:
        stream, jetstream = f"OBJ_{subjects.EVIDENCE_BUCKET}", connection.jetstream(timeout=_TIMEOUT_S)
        entry = await _entry(jetstream, stream, finding)
        if entry.same_as:
            entry = await _entry(jetstream, stream, entry.same_as)
        if entry.state == ARMED:
            raise MachineError(
                f"packets are being kept until {entry.seconds} s after the finding, and written then: ask again"
            )
        if entry.state == FAILED:
            raise MachineError(f"none were kept: {entry.kept.get('problem')}")
        store = await jetstream.object_store(subjects.EVIDENCE_BUCKET)
        async with asyncio.timeout(_TIMEOUT_S):
            data = (await store.get(entry.finding)).data or b""
    except (NatsError, TimeoutError, CorruptData) as error:
        raise MachineError(
            f"the packets of this finding cannot be read, or are not there any more: {error!r}"
        ) from None
    finally:
        await connection.close()
    if hashlib.sha256(data).hexdigest() != entry.kept.get("sha256"):
        raise MachineError("parts of the file made room for newer ones: it is given out whole or not at all")
    return data


async def _entry(jetstream: JetStreamContext, stream: str, finding: str) -> Entry:
    try:
        message = await jetstream.get_last_msg(stream, subjects.evidence_entry(finding))
    except NotFoundError:
        raise MachineError("no packets were kept for this finding, or not any more", fix=_OFF) from None
    return Entry.decode(message.data or b"")
