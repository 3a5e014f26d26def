"""The broker's certificates: an authority of the release's own, and the server's certificate that it signs.

Responsible for making them and for telling whether stored ones are still good, as functions of bytes and a time; not for where they are
kept (:mod:`daemoneye_operator.brokersecrets`).

A stored pair that is cut short, someone else's, not valid at `now` or in the last third of its life counts as none, and is made anew.
Validity begins an hour before `now`, for clocks that are behind.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE: Final = dt.timedelta(days=3652)
SERVER_LIFE: Final = dt.timedelta(days=365)
BACKDATED: Final = dt.timedelta(hours=1)

# What cryptography raises for bytes that are no certificate or key, or one of a kind that it does not know.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
OVERLAP: Final = dt.timedelta(days=1)
"""How long an authority that was replaced is trusted beside its successor: pods have new files within minutes."""
_AUTHORITIES: Final = 8
"""More are not trusted at once, whatever an issuer sends."""
_USES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
# RFC 5280 allows 64 characters in a common name; the names that count are the alternative ones.
_COMMON_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


def authority(stored: Pair | None, name: str, now: dt.datetime) -> Pair:
    """The stored authority if it is good, else a new one for this name."""
    if stored is not None and _good_authority(stored, now):
        return stored
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name} broker CA")
    builder = (
        _builder(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Pair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def server(stored: Pair | None, issuer: Pair, names: Sequence[str], now: dt.datetime) -> Pair:
    """The stored certificate if this authority issued it for these names and it is good, else a new one.

    It serves as a client's, too: a cluster's routes use it both ways.
    """
    if stored is not None and _good_server(stored, issuer, names, now):
        return stored
    authority_certificate, authority_key = _load(issuer)
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + SERVER_LIFE, authority_certificate.not_valid_after_utc)
    identifier = authority_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(names[0]), authority_certificate.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return Pair(_pem(builder.sign(authority_key, hashes.SHA256())), _key_pem(key))


def fault(pair: Pair, authorities: bytes, names: Sequence[str], now: dt.datetime, *, both_ways: bool = False) -> str:
    """What is wrong with a certificate that somebody else issued, empty if nothing is.

    Args:
        pair: The certificate, with those between it and an authority behind it, and its key, of whichever kind.
        authorities: Certificates of the authorities.
        names: Names that it must have.
        now: The present.
        both_ways: Whether it serves as a client's, too, as it does between servers.
    """
    try:
        chain = x509.load_pem_x509_certificates(pair.certificate)
        roots = x509.load_pem_x509_certificates(authorities)
        key = serialization.load_pem_private_key(pair.key, password=None)
        named, uses = _names_and_uses(chain[0])
    except _UNREADABLE as error:
        return f"tls.crt, tls.key or ca.crt cannot be read ({error})"
    certificate = chain[0]
    if key.public_key() != certificate.public_key():
        return "tls.key is not the key of tls.crt"
    if missing := [name for name in names if name not in named]:
        return f"tls.crt lacks {'the name' if len(missing) == 1 else 'the names'} {', '.join(missing)}"
    if uses is not None and ExtendedKeyUsageOID.SERVER_AUTH not in uses:
        return "tls.crt may not be a server's (it lacks the usage server auth)"
    if both_ways and uses is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        return "tls.crt may not be a client's, which servers are to one another (it lacks the usage client auth)"
    if now >= certificate.not_valid_after_utc:
        return f"tls.crt ended at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    if now < certificate.not_valid_before_utc:
        return f"tls.crt begins at {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    if _anchor(chain, roots, now) is None:
        return "no authority of ca.crt that is valid now issued tls.crt, directly or by what tls.crt holds"
    return ""


def trusted(authorities: bytes, former: bytes, since: bytes, now: dt.datetime) -> bytes:
    """These authorities, and behind them former ones for a day: while one replaces another, servers with certificates of either are met.

    No longer: one that was replaced because it is in wrong hands must not be believed for years.

    Args:
        authorities: PEM; one that cannot be read is taken as it is.
        former: PEM of before.
        since: The certificate that the former ones did not issue; they are trusted for `OVERLAP` after its beginning.
        now: The present.
    """
    try:
        known = x509.load_pem_x509_certificates(authorities)
        before = x509.load_pem_x509_certificates(former) if former else []
        replaced = x509.load_pem_x509_certificate(since).not_valid_before_utc
    except _UNREADABLE:
        return authorities
    fresh = now < replaced + OVERLAP
    kept = [one for one in dict.fromkeys(before) if fresh and one not in known and now < one.not_valid_after_utc]
    return b"".join(_pem(one) for one in [*dict.fromkeys(known), *kept][:_AUTHORITIES])


def authority_expiry(certificate: bytes, authorities: bytes, now: dt.datetime) -> float | None:
    """When the one of these authorities ends from which a certificate comes, seconds since 1970; where there is none, the first of all."""
    try:
        chain, roots = (x509.load_pem_x509_certificates(pem) for pem in (certificate, authorities))
    except _UNREADABLE:
        return expiry(authorities)
    anchor = _anchor(chain, roots, now)
    return expiry(authorities) if anchor is None else anchor.not_valid_after_utc.timestamp()


def expiry(pem: bytes) -> float | None:
    """When the first of these certificates ends, seconds since 1970; None when they cannot be read."""
    try:
        return min(one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(pem))
    except _UNREADABLE:
        return None


def _good_authority(stored: Pair, now: dt.datetime) -> bool:
    try:
        certificate, _ = _load(stored)
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except _UNREADABLE:
        return False
    return constraints.ca and usage.key_cert_sign and _fresh(certificate, now)


def _good_server(stored: Pair, issuer: Pair, names: Sequence[str], now: dt.datetime) -> bool:
    try:
        certificate, _ = _load(stored)
        certificate.verify_directly_issued_by(_load(issuer)[0])
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except _UNREADABLE:
        return False
    named = alternatives.get_values_for_type(x509.DNSName)
    return set(named) == set(names) and set(_USES) <= set(uses) and _fresh(certificate, now)


def _names_and_uses(certificate: x509.Certificate) -> tuple[list[str], Sequence[x509.ObjectIdentifier] | None]:
    """DNS names, and what it may be used for; None is anything."""
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        uses = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        uses = None
    return alternatives.get_values_for_type(x509.DNSName), uses


def _anchor(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: dt.datetime
) -> x509.Certificate | None:
    """The authority from which the first of a chain comes, by way of the others; None where there is no such way now."""
    issuers = [one for one in (*roots, *chain[1:]) if one.not_valid_before_utc <= now < one.not_valid_after_utc]
    at, seen = chain[0], [chain[0]]
    while at not in roots:
        found = next((one for one in issuers if one not in seen and _issued(at, one)), None)
        if found is None:
            return None
        at = found
        seen.append(at)
    return at


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except _UNREADABLE:
        return False


def _load(pair: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    key = serialization.load_pem_private_key(pair.key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("the key is not the certificate's")
    return certificate, key


def _fresh(certificate: x509.Certificate, now: dt.datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin <= now < end - (end - begin) / 3


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME])])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
