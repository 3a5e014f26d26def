"""The Secrets of the broker: its authority, its certificate and configuration, and one credential a role.

Responsible for what they are to hold, given what they hold now; not for reading or writing them. Whatever is there and good stays, so that
applying twice changes nothing and a restart gives nobody a new password.

::

    F-ca             ca.crt, ca.key                         F is the release's full name
    F-nats           nats.conf, tls.crt, tls.key, ca.crt    mounted at /etc/nats
    F-broker-<role>  user, password, inbox_prefix, ca.crt   mounted at /etc/daemoneye/broker

On a broker of the user's own only the last are made, from the Secrets that ``nats.credentialsSecretRef`` and ``nats.tlsSecretRef`` name;
they have no ``ca.crt`` without the latter, which means the system's authorities.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemoneye.broker.roles import ROLES, inbox_prefix, permissions
from daemoneye.errors import ConfigError
from daemoneye_operator import pki
from daemoneye_operator.settings import OperatorSettings

Data = Mapping[str, bytes]

MAX_PAYLOAD_BYTES: Final = 8 << 20
# One for each sensor and a few more; nodes of the largest clusters that Kubernetes supports, twice.
MAX_CONNECTIONS: Final = 10_000

_MOUNT: Final = "/etc/nats"
_STORE: Final = "/data"
_CLIENT_PORT: Final = 4222
_CLUSTER_PORT: Final = 6222
_MONITOR_PORT: Final = 8222
_MEMORY_STORE: Final = 16 << 20
_PASSWORD_BYTES: Final = 32
_PASSWORD: Final = re.compile(rb"[A-Za-z0-9_-]{32,256}")


@dataclass(frozen=True, slots=True)
class BrokerSecrets:
    """What is to be.

    Attributes:
        secrets: Name → whole data.
        restart: Whether F-nats was there and is to change, so that a running server has to be started again.
        digest: Hash of F-nats' data, for an annotation of the servers' pods; empty on a broker of the user's own.
    """

    secrets: dict[str, dict[str, bytes]]
    restart: bool = False
    digest: str = ""


def ca_name(settings: OperatorSettings) -> str:
    """Name of the authority's Secret."""
    return f"{settings.fullname}-ca"


def server_name(settings: OperatorSettings) -> str:
    """Name of the server's Secret, its Service and its StatefulSet."""
    return f"{settings.fullname}-nats"


def role_name(settings: OperatorSettings, role: str) -> str:
    """Name of a role's Secret."""
    return f"{settings.fullname}-broker-{role}"


def sources(settings: OperatorSettings) -> tuple[str, ...]:
    """Names of the Secrets that `desired` looks at."""
    nats = settings.nats
    if nats.external:
        return tuple(ref.name for ref in (nats.credentials_secret_ref, nats.tls_secret_ref) if ref is not None)
    return (ca_name(settings), server_name(settings), *(role_name(settings, role) for role in ROLES))


def desired(settings: OperatorSettings, present: Mapping[str, Data | None], now: dt.datetime) -> BrokerSecrets:
    """All Secrets as they are to be; `present` holds the data of `sources`, None or nothing for one that does not exist.

    Raises:
        ConfigError: A Secret of the user's, or a key in it, is missing.
    """
    if settings.nats.external:
        return BrokerSecrets(_external(settings, present))
    authority = pki.authority(_pair(present.get(ca_name(settings)), "ca"), settings.fullname, now)
    before = present.get(server_name(settings)) or {}
    certificate = pki.server(_pair(before, "tls"), authority, _names(settings), now)
    passwords = {role: _password(present.get(role_name(settings, role))) for role in ROLES}
    server = {
        "nats.conf": _configuration(settings, passwords).encode(),
        "tls.crt": certificate.certificate,
        "tls.key": certificate.key,
        "ca.crt": authority.certificate,
    }
    made = {
        ca_name(settings): {"ca.crt": authority.certificate, "ca.key": authority.key},
        server_name(settings): server,
    }
    for role in ROLES:
        made[role_name(settings, role)] = {
            "user": role.encode(),
            "password": passwords[role].encode(),
            "inbox_prefix": inbox_prefix(role).encode(),
            "ca.crt": authority.certificate,
        }
    digest = hashlib.sha256(b"\0".join(server[key] for key in sorted(server))).hexdigest()[:32]
    return BrokerSecrets(made, restart=bool(before) and dict(before) != server, digest=digest)


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


def _names(settings: OperatorSettings) -> list[str]:
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


def _configuration(settings: OperatorSettings, passwords: Mapping[str, str]) -> str:
    """nats-server's configuration: a JSON value for each key, but for the name, which a pod's environment gives."""
    tls = {"cert_file": f"{_MOUNT}/tls.crt", "key_file": f"{_MOUNT}/tls.key", "ca_file": f"{_MOUNT}/ca.crt"}
    values: dict[str, Any] = {
        "listen": f"0.0.0.0:{_CLIENT_PORT}",
        "http": f"0.0.0.0:{_MONITOR_PORT}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_connections": MAX_CONNECTIONS,
        # A sensor whose node went away silently is let go within a minute and a half.
        "ping_interval": "30s",
        "ping_max": 2,
        "write_deadline": "10s",
        # Users have passwords, not certificates. All sensors shaking hands at once take longer than the default of two seconds.
        "tls": {"cert_file": tls["cert_file"], "key_file": tls["key_file"], "timeout": 10},
        "authorization": {
            "timeout": 15,
            # Plain on purpose: the same words lie in the roles' Secrets, they are random, so that nothing is gained by a slow hash, and
            # bcrypt would cost a minute of CPU when a thousand sensors come back.
            "users": [{"user": role, "password": passwords[role], "permissions": permissions(role)} for role in ROLES],
        },
        "jetstream": {
            "store_dir": _STORE,  # nats-server adds "jetstream"
            "max_memory_store": _MEMORY_STORE,
            "max_file_store": settings.nats.store_max_bytes,
            # The default syncs every two minutes: an acknowledged batch would not survive a power cut.
            "sync_interval": "always",
        },
    }
    if settings.nats.replicas > 1:
        service = server_name(settings)
        host = f"{service}-headless.{settings.namespace}.svc:{_CLUSTER_PORT}"
        values["cluster"] = {
            "name": settings.fullname,
            "listen": f"0.0.0.0:{_CLUSTER_PORT}",
            # Clients keep to the Service: a pod's address is in no certificate.
            "no_advertise": True,
            "tls": {**tls, "verify": True, "timeout": 10},
            "routes": [f"nats-route://{service}-{index}.{host}" for index in range(settings.nats.replicas)],
        }
    lines = [f"{key}: {json.dumps(value, indent=1)}" for key, value in values.items()]
    return "\n".join(["server_name: $POD_NAME", *lines]) + "\n"
