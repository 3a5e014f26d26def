"""cert-manager's part, played: what it writes into the Secret of a Certificate, signed by an authority of the test's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from daemoneye_operator import pki

NAMES = (
    "daemoneye-nats", "daemoneye-nats.security", "daemoneye-nats.security.svc", "daemoneye-nats.security.svc.cluster.local",
    "*.daemoneye-nats-headless.security.svc", "*.daemoneye-nats-headless.security.svc.cluster.local", "localhost",
)  # fmt: skip
SECRET = "daemoneye-nats-tls"


class Issuer:
    """A CA issuer."""

    def __init__(self, name: str, now: dt.datetime) -> None:
        self._authority = pki.authority(None, name, now)

    @property
    def certificate(self) -> bytes:
        """Of the authority."""
        return self._authority.certificate

    def secret(self, now: dt.datetime, names: Sequence[str] = NAMES) -> dict[str, bytes]:
        """Data of the Secret of a certificate that was issued now."""
        made = pki.server(None, self._authority, names, now)
        return {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": self._authority.certificate}
