"""The test cluster's certificates and kubeconfig files."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS: Final = 30
_KEY_USES: Final = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]


class Authority:
    """A certificate authority in a directory: `ca.crt`, and `<name>.crt` with `<name>.key` for each certificate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("daemoneye-test-ca", "")
        self.certificate = self._sign(self._name, self._key, authority=True)
        (directory / "ca.crt").write_bytes(_pem(self.certificate))

    def issue(self, name: str, common_name: str, organisation: str = "", addresses: tuple[str, ...] = ()) -> None:
        """Write a certificate for a user of the API (common name, organisation) or a server (DNS names and addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(common_name, organisation), key, addresses=addresses)
        (self.directory / f"{name}.crt").write_bytes(_pem(certificate))
        write_key(self.directory / f"{name}.key", key)

    def kubeconfig(self, path: Path, user: str, server: str) -> None:
        """Write a kubeconfig with the certificate that was issued as `user`."""
        cluster = {"server": server, "certificate-authority": str(self.directory / "ca.crt")}
        files = {"client-certificate": f"{self.directory}/{user}.crt", "client-key": f"{self.directory}/{user}.key"}
        path.touch(mode=0o600)
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "test",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": user, "user": files}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
                }
            )
        )  # fmt: skip

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        addresses: tuple[str, ...] = (),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage(_KEY_USES), critical=False)
        if addresses:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(a) for a in addresses]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """Write a private key that only its owner reads."""
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def service_account_key(path: Path) -> None:
    """Write the key that signs service accounts' tokens."""
    write_key(path, rsa.generate_private_key(65537, 2048))


def _name(common_name: str, organisation: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _alternative(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
