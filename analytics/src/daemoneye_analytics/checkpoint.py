"""What analytics must not forget, as one blob of bytes.

Layout: magic `DECK`, u16 version, SHA-256 of the rest, one zstd frame, in it a numpy archive without pickled objects: the arrays, and as
the array `json` everything else. Responsible for that form and for refusing what is damaged, foreign or of the future; where the bytes
are kept is `daemoneye_analytics.store`'s affair.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import zstandard

from daemoneye.errors import CorruptData

VERSION: Final = 1
MAX_BYTES: Final = 256 * 1024 * 1024
"""Largest checkpoint, decompressed; a frame that claims more is refused before anything is allocated."""
_PREFIX: Final = struct.Struct("<4sH32s")
_MAGIC: Final = b"DECK"
_JSON: Final = "json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A consistent moment of analytics.

    Attributes:
        number: Counts up with every checkpoint: the greatest readable one counts.
        position: Sequence in the first event stream of the last message whose effects are in it.
        facts: Watermarks, counters and the like: JSON.
        detectors: Detector name → its state (`daemoneye_analytics.detectors.base.State`).
    """

    number: int
    position: int
    facts: dict[str, Any]
    detectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def positions(self) -> dict[int, int]:
        """Of each event stream by its number; releases before knew one stream."""
        return {
            0: self.position,
            **{int(shard): int(at) for shard, at in dict(self.facts.get("positions", {})).items()},
        }

    @property
    def read(self) -> int:
        """Messages of all streams that came before it."""
        return sum(self.positions.values())

    @property
    def parts(self) -> int:
        """How many parts the workloads were divided into."""
        return int(self.facts.get("parts", 1))


def encode(checkpoint: Checkpoint) -> bytes:
    """The bytes of a checkpoint.

    Raises:
        ValueError: It is larger than `MAX_BYTES`, or a state holds Python objects.
    """
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, dict[str, Any]] = {}
    for name, state in checkpoint.detectors.items():
        plain[name] = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
        arrays |= {f"{name}/{key}": value for key, value in state.items() if isinstance(value, np.ndarray)}
    document = {
        "number": checkpoint.number,
        "position": checkpoint.position,
        "facts": checkpoint.facts,
        "detectors": plain,
    }
    arrays[_JSON] = np.frombuffer(json.dumps(document, separators=(",", ":")).encode(), np.uint8)
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **arrays)
    if archive.tell() > MAX_BYTES:
        msg = f"checkpoint of {archive.tell()} bytes; at most {MAX_BYTES} are kept"
        raise ValueError(msg)
    body = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(archive.getbuffer())
    return _PREFIX.pack(_MAGIC, VERSION, hashlib.sha256(body).digest()) + body


def decode(data: bytes) -> Checkpoint:
    """The inverse of `encode`.

    Raises:
        CorruptData: Damaged, of another kind, or of a version that this reader does not know. Nothing of it is used.
    """
    if len(data) < _PREFIX.size:
        raise CorruptData(f"checkpoint of {len(data)} bytes is shorter than its prefix")
    magic, version, digest = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptData(f"not a checkpoint: begins with {magic!r}")
    if version != VERSION:
        raise CorruptData(f"checkpoint of version {version}; this version reads {VERSION}")
    body = data[_PREFIX.size :]
    if hashlib.sha256(body).digest() != digest:
        raise CorruptData("checkpoint is damaged: its checksum does not fit")
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= MAX_BYTES:
            raise CorruptData(f"checkpoint claims {size} bytes; at most {MAX_BYTES} are read")
        archive = zstandard.ZstdDecompressor().decompress(body)
        with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
            return _checkpoint({name: arrays[name] for name in arrays.files})
    except (zstandard.ZstdError, zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        raise CorruptData(f"checkpoint: {error!r}") from error


def _checkpoint(arrays: dict[str, np.ndarray]) -> Checkpoint:
    document = json.loads(arrays.pop(_JSON).tobytes())
    detectors: dict[str, dict[str, Any]] = {str(name): dict(state) for name, state in document["detectors"].items()}
    for path, array in arrays.items():
        name, _, key = path.partition("/")
        detectors.setdefault(name, {})[key] = array
    made = Checkpoint(int(document["number"]), int(document["position"]), dict(document["facts"]), detectors)
    _ = made.positions, made.parts  # raises what `decode` refuses it for
    return made
