"""The key that the callout signs its answers with: an account's nkey, which nats-server knows by its public half.

Responsible for making one, for telling whether a stored one is good, and for signed claims (JWT with nkeys, NATS ADR-14); not for what they
claim nor for where the seed is kept (:mod:`daemoneye_operator.brokersecrets`).

An nkey is an Ed25519 key as text: base32 of what it is for, the key's 32 bytes, and a CRC-16. The package `nkeys` has no wheel, which the
images need.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_KEY_BYTES: Final = 32
# Of an account's public key, and of its seed: text that begins with A, and with SA.
_PUBLIC: Final = bytes([0])
_SEED: Final = bytes([18 << 3, 0])
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


def new_seed() -> bytes:
    """A new seed."""
    return _nkey(_SEED, secrets.token_bytes(_KEY_BYTES))


class Issuer:
    """One key.

    Attributes:
        public: Its public half, as nats.conf names it.
    """

    def __init__(self, seed: bytes) -> None:
        """From a seed's text.

        Raises:
            ValueError: It is not the seed of an account.
        """
        try:
            raw = base64.b32decode(seed + b"=" * (-len(seed) % 8))[len(_SEED) : -2]
        except binascii.Error:
            raw = b""
        if len(raw) != _KEY_BYTES or _nkey(_SEED, raw) != seed:
            raise ValueError("not the seed of an account's nkey")
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.public = _nkey(_PUBLIC, self._key.public_key().public_bytes_raw()).decode()

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The claims as a JWT; issuer and id are put in."""
        whole = {**claims, "iss": self.public, "jti": secrets.token_hex(16)}
        signed = f"{_part(_HEADER)}.{_part(whole)}"
        return f"{signed}.{_text(self._key.sign(signed.encode()))}"


def _nkey(prefix: bytes, raw: bytes) -> bytes:
    data = prefix + raw
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).rstrip(b"=")


def _part(value: Mapping[str, Any]) -> str:
    return _text(json.dumps(value, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
