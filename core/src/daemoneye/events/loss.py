"""loss: something was lost, and where. A reader can so tell "nothing happened" from "something was lost"."""

from __future__ import annotations

from typing import Final

from daemoneye.events.schema import Field, Record

STAGES: Final[tuple[str, ...]] = ("ring", "table", "capture", "lease", "blob", "decode", "spool", "publish", "stream")
"""Places that count losses, in order of a record's way; the table in ARCHITECTURE.md says who counts."""

LOSS = Record(
    id=65,
    name="loss",
    lane="loss",
    doc="Records that were lost at one stage of one lane within a span of time.",
    fields=(
        Field(
            1, "time", "u64", "End of the span in which they were lost, by the boot-time clock.", unit="ns", ocsf="time"
        ),
        Field(2, "since", "u64", "Beginning of that span.", unit="ns"),
        Field(3, "count", "u64", "Records lost.", unit="records"),
        Field(
            4,
            "first_sequence",
            "u64",
            "First lost sequence, where the lost records had one; otherwise 18446744073709551615.",
        ),
        Field(5, "epoch", "u64", "Epoch of those sequences."),
        Field(
            6,
            "stage",
            "heap16",
            "ring, table (of open sockets), capture (of packets), lease, blob, decode, spool, publish or stream.",
            text="string",
        ),
        Field(7, "lane", "heap16", "Lane of the lost records.", text="string"),
        Field(8, "ring", "heap16", "Ring, for the kernel's stages.", text="string"),
        Field(9, "reason", "heap16", "What happened, in words.", text="string"),
    ),
)
