"""The Secrets of the broker: its authority, its certificate and configuration, the callout's key, and one credential a role.

Responsible for what they are to hold, given what they hold now; not for reading or writing them nor for what the server is told
(:mod:`daemoneye_operator.brokerconf`). Whatever is there and good stays, so that applying twice changes nothing and a restart gives nobody a new
password.

::

    F-ca             ca.crt, ca.key                         F is the release's full name
    F-nats           nats.conf, tls.crt, tls.key, ca.crt    mounted at /etc/nats
    F-callout        seed                                   mounted at /etc/daemoneye/issuer, by the callout alone
    F-broker-<role>  user, password, inbox_prefix, ca.crt   mounted at /etc/daemoneye/broker

`F-broker-sensor` holds no password: a sensor's is the token of its pod. One that a release before this made there stays, worthless as it is: the
sensors of that release could not do without the file until they are replaced.

With ``nats.certificateSecretRef`` cert-manager keeps authority and certificate in a Secret of its own, `F-nats-tls`, and they are taken from there:
F-ca then has no key. What is wrong with it is said and the former certificate goes on; the authorities of before are trusted for a day more.

On a broker of the user's own only the last are made, from the Secrets that ``nats.credentialsSecretRef`` and ``nats.tlsSecretRef`` name;
they have no ``ca.crt`` without the latter, which means the system's authorities, and there is no callout.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from daemoneye.broker.roles import CALLOUT, ROLES, inbox_prefix
from daemoneye.errors import ConfigError
from daemoneye_operator import brokerconf, pki
from daemoneye_operator.brokerconf import server_name
from daemoneye_operator.callout.issuer import Issuer, new_seed
from daemoneye_operator.settings import OperatorSettings

Data = Mapping[str, bytes]

_PASSWORD_BYTES: Final = 32
_PASSWORD: Final = re.compile(rb"[A-Za-z0-9_-]{32,256}")


@dataclass(frozen=True, slots=True)
class BrokerSecrets:
    """What is to be.

    Attributes:
        secrets: Name → whole data.
        restart: Whether F-nats was there and what its server reads is to change, so that a running one has to be started again.
        digest: Hash of F-nats' data, for an annotation of the servers' pods; empty on a broker of the user's own.
        trouble: Why what cert-manager keeps is not taken; the former certificate goes on.
    """

    secrets: dict[str, dict[str, bytes]]
    restart: bool = False
    digest: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class _Certificates:
    """What a server shows, whom clients trust, and the key of the authority where that is our own."""

    server: pki.Pair
    authorities: bytes
    key: bytes = b""
    trouble: str = ""


def ca_name(settings: OperatorSettings) -> str:
    """Name of the authority's Secret."""
    return f"{settings.fullname}-ca"


def callout_name(settings: OperatorSettings) -> str:
    """Name of the Secret with the seed of the callout's key."""
    return f"{settings.fullname}-callout"


def role_name(settings: OperatorSettings, role: str) -> str:
    """Name of a role's Secret."""
    return f"{settings.fullname}-broker-{role}"


def roles(settings: OperatorSettings) -> tuple[str, ...]:
    """Roles that have a Secret each."""
    return ROLES if settings.nats.external else (*ROLES, CALLOUT)


def sources(settings: OperatorSettings) -> tuple[str, ...]:
    """Names of the Secrets that `desired` looks at."""
    nats = settings.nats
    if nats.external:
        return tuple(ref.name for ref in (nats.credentials_secret_ref, nats.tls_secret_ref) if ref is not None)
    names = [role_name(settings, role) for role in roles(settings)]
    if nats.certificate_secret_ref is not None:
        names.append(nats.certificate_secret_ref.name)
    return (ca_name(settings), server_name(settings), callout_name(settings), *names)


def desired(settings: OperatorSettings, present: Mapping[str, Data | None], now: dt.datetime) -> BrokerSecrets:
    """All Secrets as they are to be; `present` holds the data of `sources`, None or nothing for one that does not exist.

    Raises:
        ConfigError: A Secret of the user's or of cert-manager, or a key in it, is missing or wrong, and there is none of before.
    """
    if settings.nats.external:
        return BrokerSecrets(_external(settings, present))
    before = present.get(server_name(settings)) or {}
    held = (_issued if settings.nats.certificate_secret_ref else _own)(settings, present, before, now)
    seed = _seed(present.get(callout_name(settings)))
    passwords = {role: _password(present.get(role_name(settings, role))) for role in brokerconf.PASSWORDS}
    server = {
        "nats.conf": brokerconf.text(settings, passwords, Issuer(seed).public).encode(),
        "tls.crt": held.server.certificate,
        "tls.key": held.server.key,
        "ca.crt": held.authorities,
    }
    made = {
        ca_name(settings): {"ca.crt": held.authorities, **({"ca.key": held.key} if held.key else {})},
        server_name(settings): server,
        callout_name(settings): {"seed": seed},
    }
    for role in roles(settings):
        name = role_name(settings, role)
        word = passwords[role].encode() if role in passwords else (present.get(name) or {}).get("password")
        made[name] = {
            "user": role.encode(),
            "inbox_prefix": inbox_prefix(role).encode(),
            "ca.crt": held.authorities,
            **({} if word is None else {"password": word}),
        }
    digest = hashlib.sha256(b"\0".join(server[key] for key in sorted(server))).hexdigest()[:32]
    # A server alone reads no authorities: it asks nobody for a certificate.
    read = server.keys() - ({"ca.crt"} if settings.nats.replicas == 1 else set())
    restart = bool(before) and any(before.get(key) != server[key] for key in read)
    return BrokerSecrets(made, restart=restart, digest=digest, trouble=held.trouble)


def _own(
    settings: OperatorSettings, present: Mapping[str, Data | None], before: Data, now: dt.datetime
) -> _Certificates:
    authority = pki.authority(_pair(present.get(ca_name(settings)), "ca"), settings.fullname, now)
    server = pki.server(_pair(before, "tls"), authority, server_names(settings), now)
    return _Certificates(server, authority.certificate, authority.key)


def _issued(
    settings: OperatorSettings, present: Mapping[str, Data | None], before: Data, now: dt.datetime
) -> _Certificates:
    """What cert-manager keeps, or if that is no good what the servers have."""
    former = _pair(before, "tls")
    authorities = before.get("ca.crt", b"")
    try:
        pair, known = _of_cert_manager(settings, present, now)
    except ConfigError as error:
        if former is None or _fault(settings, former, authorities, now):
            raise
        return _Certificates(former, authorities, trouble=f"{error}; the former certificate goes on")
    return _Certificates(pair, pki.trusted(known, authorities, pair.certificate, now))


def _of_cert_manager(
    settings: OperatorSettings, present: Mapping[str, Data | None], now: dt.datetime
) -> tuple[pki.Pair, bytes]:
    reference = settings.nats.certificate_secret_ref
    name = reference.name if reference else ""
    where = f"nats.issuerRef: Secret {settings.namespace}/{name}"
    look = f"`kubectl describe certificate -n {settings.namespace} {name}` says why"
    data = present.get(name)
    if data is None:
        raise ConfigError(f"{where} does not exist: cert-manager has not issued the certificate; {look}")
    if not data.get("ca.crt"):
        raise ConfigError(
            f"{where} has no key ca.crt: use an issuer that tells its authority, as CA and Vault do and ACME does not"
        )
    pair = _pair(data, "tls")
    if pair is None:
        raise ConfigError(f"{where} has no tls.crt or no tls.key: {look}")
    if fault := _fault(settings, pair, data["ca.crt"], now):
        raise ConfigError(f"{where}: {fault}; {look}")
    return pair, data["ca.crt"]


def _fault(settings: OperatorSettings, pair: pki.Pair, authorities: bytes, now: dt.datetime) -> str:
    return pki.fault(pair, authorities, server_names(settings), now, both_ways=settings.nats.replicas > 1)


def _external(settings: OperatorSettings, present: Mapping[str, Data | None]) -> dict[str, dict[str, bytes]]:
    nats = settings.nats
    if nats.credentials_secret_ref is None:
        raise ConfigError("nats.credentialsSecretRef is missing: an external broker needs a user for each role")
    where, given = _given("nats.credentialsSecretRef", nats.credentials_secret_ref.name, settings, present)
    trusted: dict[str, bytes] = {}
    if nats.tls_secret_ref is not None:
        place, data = _given("nats.tlsSecretRef", nats.tls_secret_ref.name, settings, present)
        trusted = {"ca.crt": _key(place, data, "ca.crt")}
    return {
        role_name(settings, role): {
            "user": _key(where, given, f"{role}.user"),
            "password": _key(where, given, f"{role}.password"),
            "inbox_prefix": given.get(f"{role}.inbox_prefix") or inbox_prefix(role).encode(),
            **trusted,
        }
        for role in ROLES
    }


def _given(setting: str, name: str, settings: OperatorSettings, present: Mapping[str, Data | None]) -> tuple[str, Data]:
    data = present.get(name)
    where = f"{setting}: Secret {settings.namespace}/{name}"
    if data is None:
        raise ConfigError(f"{where} does not exist: make it")
    return where, data


def _key(where: str, data: Data, key: str) -> bytes:
    if not data.get(key):
        raise ConfigError(f"{where} has no key {key}: add it")
    return data[key]


def _pair(data: Data | None, name: str) -> pki.Pair | None:
    certificate, key = (data or {}).get(f"{name}.crt"), (data or {}).get(f"{name}.key")
    return pki.Pair(certificate, key) if certificate and key else None


def _password(data: Data | None) -> str:
    stored = (data or {}).get("password", b"")
    return stored.decode() if _PASSWORD.fullmatch(stored) else secrets.token_urlsafe(_PASSWORD_BYTES)


def _seed(data: Data | None) -> bytes:
    stored = (data or {}).get("seed", b"")
    try:
        Issuer(stored)
    except ValueError:
        return new_seed()
    return stored


def server_names(settings: OperatorSettings) -> list[str]:
    """Names that the broker's certificate has."""
    service, namespace = server_name(settings), settings.namespace
    return [
        service,
        f"{service}.{namespace}",
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}.svc.cluster.local",
        f"*.{service}-headless.{namespace}.svc",
        f"*.{service}-headless.{namespace}.svc.cluster.local",
        "localhost",
    ]
