"""cert-manager's part, played: what it writes into the Secret of a Certificate, signed by an authority of the test's.

As its documentation says: tls.crt is the certificate and what lies between it and the authority, tls.key of the form that a Certificate without
`privateKey.encoding` has, ca.crt the authority; there is no subject, and the names are critical.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES: Final = (
    "daemoneye-nats", "daemoneye-nats.security", "daemoneye-nats.security.svc", "daemoneye-nats.security.svc.cluster.local",
    "*.daemoneye-nats-headless.security.svc", "*.daemoneye-nats-headless.security.svc.cluster.local", "localhost",
)  # fmt: skip
SECRET: Final = "daemoneye-nats-tls"
LIFE: Final = dt.timedelta(days=90)
"""What the chart asks for."""
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


class Issuer:
    """A CA issuer: an authority, or one below another."""

    def __init__(
        self, name: str, now: dt.datetime, life: dt.timedelta = dt.timedelta(days=3650), above: Issuer | None = None
    ) -> None:
        self.above = above
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or self
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only", "decipher_only"), False
        )  # fmt: skip
        self.signed = (
            _builder(self.subject, signer, self.key.public_key(), now, life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
            .sign(signer.key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        """Of the authority, the uppermost one."""
        return self.above.certificate if self.above else _pem(self.signed)

    def secret(
        self,
        now: dt.datetime,
        names: Sequence[str] = NAMES,
        life: dt.timedelta = LIFE,
        uses: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
    ) -> dict[str, bytes]:
        """Data of the Secret of a certificate that was issued now."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(x509.Name([]), self, key.public_key(), now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        form = serialization.PrivateFormat.TraditionalOpenSSL
        return {
            "tls.crt": _pem(leaf) + (_pem(self.signed) if self.above else b""),
            "tls.key": key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()),
            "ca.crt": self.certificate,
        }


def manifest(data: Mapping[str, bytes]) -> dict[str, Any]:
    """The Secret's object."""
    annotations = {"cert-manager.io/certificate-name": SECRET}
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"name": SECRET, "annotations": annotations}, "type": "kubernetes.io/tls", "data": encoded}


def _builder(
    subject: x509.Name, signer: Issuer, key: ec.EllipticCurvePublicKey, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
