"""Models at rest: bytes that nobody else can have written.

Layout: magic `DEYM`, u16 version, key id (8 bytes), HMAC-SHA256 of all the rest (32 bytes), payload. Responsible for that form alone: the signature is
checked before anybody looks into the payload.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import Final

from daemoneye.errors import CorruptData

VERSION: Final = 1
MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest sealed model."""
_MAGIC: Final = b"DEYM"
_HEAD: Final = struct.Struct("<4sH8s")
_MAC_BYTES: Final = 32
_OWN_KEY: Final = os.urandom(32)
_process_key: Final[list[bytes]] = [b""]


def use(secret: bytes) -> None:
    """Have this process's models signed by a key that follows from a secret which its successors have, too."""
    _process_key[0] = hmac.digest(secret, b"daemoneye model key", "sha256")


class Signer:
    """Seals with one key and opens only what was sealed with it."""

    def __init__(self, key: bytes | None = None) -> None:
        """Of a key.

        Args:
            key: At least 16 bytes, secret. None takes the process's (`use`), or one that only this process has: what is stored then is of no use to
                later ones, which fit anew.

        Raises:
            ValueError: It is too short.
        """
        self._key = (_process_key[0] or _OWN_KEY) if key is None else key
        if len(self._key) < 16:
            msg = f"a key of {len(self._key)} bytes; models are signed with at least 16"
            raise ValueError(msg)
        self._id = hashlib.sha256(b"daemoneye model key" + self._key).digest()[:8]

    def seal(self, payload: bytes) -> bytes:
        """The payload with its signature.

        Raises:
            ValueError: It is larger than `MAX_BYTES`.
        """
        if len(payload) > MAX_BYTES - _HEAD.size - _MAC_BYTES:
            msg = f"a model of {len(payload)} bytes; at most {MAX_BYTES} are kept"
            raise ValueError(msg)
        head = _HEAD.pack(_MAGIC, VERSION, self._id)
        return head + self._mac(head, payload) + payload

    def open(self, sealed: bytes) -> bytes:
        """The payload of what `seal` gave.

        Raises:
            CorruptData: Too large, damaged, of another kind, version or key, or changed.
        """
        if not _HEAD.size + _MAC_BYTES <= len(sealed) <= MAX_BYTES:
            raise CorruptData(f"a model of {len(sealed)} bytes; {_HEAD.size + _MAC_BYTES} to {MAX_BYTES} are read")
        magic, version, key = _HEAD.unpack_from(sealed)
        if magic != _MAGIC:
            raise CorruptData(f"not a model: begins with {magic!r}")
        if version != VERSION:
            raise CorruptData(f"model of version {version}; this version reads {VERSION}")
        if key != self._id:
            raise CorruptData(f"model signed with another key ({key.hex()}, not {self._id.hex()})")
        payload = sealed[_HEAD.size + _MAC_BYTES :]
        if not hmac.compare_digest(
            sealed[_HEAD.size : _HEAD.size + _MAC_BYTES], self._mac(sealed[: _HEAD.size], payload)
        ):
            raise CorruptData("model was changed: its signature does not fit")
        return payload

    def _mac(self, head: bytes, payload: bytes) -> bytes:
        return hmac.new(self._key, head + payload, hashlib.sha256).digest()
