"""Keys of QUIC's Initial packets. It loads `cryptography`, some megabytes, so that it is imported where the first such packet is read."""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB


class Keys:
    """Keys of a client's Initial packets (RFC 9001 5.2).

    Args:
        salt: The version's.
        labels: What its secret, key, IV and header key are expanded with: HkdfLabel and the counter behind it, for each is one block at most.
        dcid: The connection ID that the client chose, or that a Retry packet gave it.
    """

    def __init__(self, salt: bytes, labels: tuple[bytes, bytes, bytes, bytes], dcid: bytes) -> None:
        client, *rest = labels
        secret = hmac.digest(hmac.digest(salt, dcid, "sha256"), client, "sha256")
        key, iv, header = (hmac.digest(secret, label, "sha256") for label in rest)
        self._iv = int.from_bytes(iv[:12])
        self._aead = AESGCM(key[:16])
        self._mask = Cipher(AES(header[:16]), ECB()).encryptor()  # noqa: S305 - one block is what RFC 9001 5.4.3 asks for

    def open(self, datagram: bytes, start: int, at: int, end: int) -> bytes | None:
        """Frames of the packet from `start` to `end` whose number is at `at` (RFC 9001 5.3, 5.4); None if these are not its keys."""
        mask = self._mask.update(datagram[at + 4 : at + 20])
        first = datagram[start] ^ mask[0] & 0x0F
        size = (first & 0x03) + 1
        # The number is not completed from those before it (RFC 9000 17.1): of an attempt's few Initial packets it is all there.
        number = int.from_bytes(datagram[at : at + size]) ^ int.from_bytes(mask[1 : 1 + size])
        associated = bytes((first,)) + datagram[start + 1 : at] + number.to_bytes(size)
        nonce = (self._iv ^ number).to_bytes(12)
        try:
            return self._aead.decrypt(nonce, datagram[at + size : end], associated)
        except InvalidTag:
            return None
