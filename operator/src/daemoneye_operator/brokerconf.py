"""The broker's configuration: nats.conf of the release's own NATS, with its accounts.

Responsible for what the server is told; not for the passwords and keys in it nor for where it is kept
(:mod:`daemoneye_operator.brokersecrets`).

=========== ====================================================================================
account     who, and what passes its border
=========== ====================================================================================
`DAEMONEYE` all streams; operator, identity publisher, analytics, cli
`SENSORS`   the sensors. Out: batches and schemas, of which the stream's acknowledgement comes back, reads of single values of the two buckets,
            chunks of evidence and what is said of them, heartbeats. In: what changes in the nodes' bucket, requests to keep packets, answers
`CALLOUT`   the callout, which nats-server asks there whether somebody is a sensor: tokens are seen by nobody else
=========== ====================================================================================

Lists of permissions alone would not hold a sensor (:mod:`daemoneye.broker.roles`): who gets answers from JetStream chooses their subject, which
the server does not check, so that an acknowledgement could be sent to JetStream's API as a request, or a node's own pointer into another
node's key. An answer that goes back over the border stays in the sensors' account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from daemoneye import subjects
from daemoneye.broker.roles import CALLOUT, ROLES, callout_permissions, permissions
from daemoneye_operator.settings import OperatorSettings

STREAMS: Final = "DAEMONEYE"
SENSORS: Final = "SENSORS"
ASKED: Final = "CALLOUT"

MOUNT: Final = "/etc/nats"
STORE: Final = "/data"
MAX_PAYLOAD_BYTES: Final = 8 << 20
# One for each sensor and a few more; nodes of the largest clusters that Kubernetes supports, twice.
MAX_CONNECTIONS: Final = 10_000
# The rest is for the other roles: whoever took a sensor over can open as many as he likes, and must not shut them out.
MAX_SENSOR_CONNECTIONS: Final = MAX_CONNECTIONS - 100
# A sensor has two: for answers, and for what changes.
MAX_SENSOR_SUBSCRIPTIONS: Final = 16
# A connection's first line bears a token: two kilobytes, more where keys are large. What is longer is cut off unread.
_MAX_LINE_BYTES: Final = 16 << 10
_CLIENT_PORT: Final = 4222
_CLUSTER_PORT: Final = 6222
_MONITOR_PORT: Final = 8222
_MEMORY_STORE: Final = 16 << 20

PASSWORDS: Final = (*(role for role in ROLES if role != "sensor"), CALLOUT)
"""Roles that have a password on this broker."""


def server_name(settings: OperatorSettings) -> str:
    """Name of the server's Secret, its Service and its StatefulSet."""
    return f"{settings.fullname}-nats"


def text(settings: OperatorSettings, passwords: Mapping[str, str], issuer: str) -> str:
    """nats.conf: a JSON value for each key, but for the name, which a pod's environment gives.

    Args:
        settings: The operator's.
        passwords: By role of PASSWORDS.
        issuer: Public key of the callout's signatures.
    """
    tls = {"cert_file": f"{MOUNT}/tls.crt", "key_file": f"{MOUNT}/tls.key", "ca_file": f"{MOUNT}/ca.crt"}
    values: dict[str, Any] = {
        "listen": f"0.0.0.0:{_CLIENT_PORT}",
        "http": f"0.0.0.0:{_MONITOR_PORT}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_connections": MAX_CONNECTIONS,
        "max_control_line": _MAX_LINE_BYTES,
        # A sensor whose node went away silently is let go within a minute and a half.
        "ping_interval": "30s",
        "ping_max": 2,
        "write_deadline": "10s",
        # Users have passwords, not certificates. All sensors shaking hands at once take longer than the default of two seconds.
        "tls": {"cert_file": tls["cert_file"], "key_file": tls["key_file"], "timeout": 10},
        "accounts": _accounts(passwords),
        "authorization": {
            # For the callout to answer in; who asked waits as long when there is none.
            "timeout": 10,
            # Whoever is none of these is asked about.
            "auth_callout": {"issuer": issuer, "account": ASKED, "auth_users": list(PASSWORDS)},
        },
        "jetstream": {
            "store_dir": STORE,  # nats-server adds "jetstream"
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


def _accounts(passwords: Mapping[str, str]) -> dict[str, Any]:
    services = (
        f"{subjects.PREFIX}.events.>",
        f"{subjects.PREFIX}.schemas.*",
        *(f"{subjects.direct_get(bucket, '>')}" for bucket in (subjects.NODES_BUCKET, subjects.CONFIGS_BUCKET)),
        f"$O.{subjects.EVIDENCE_BUCKET}.C.>",
    )
    evidence = f"{subjects.PREFIX}.evidence"
    told = (subjects.key_value(subjects.NODES_BUCKET, ">"), f"{evidence}.arm.*", f"{evidence}.answer.*")
    said = (f"{subjects.PREFIX}.status.*", f"{evidence}.kept.*")
    return {
        STREAMS: {
            "jetstream": "enabled",
            # Plain on purpose: the same words lie in the roles' Secrets, they are random, so that nothing is gained by a slow hash, and
            # bcrypt would cost a minute of CPU when a thousand clients come back.
            "users": [
                {"user": role, "password": passwords[role], "permissions": permissions(role)}
                for role in PASSWORDS
                if role != CALLOUT
            ],
            "exports": [
                *({"service": subject, "accounts": [SENSORS]} for subject in services),
                *({"stream": subject, "accounts": [SENSORS]} for subject in told),
            ],
            "imports": [{"stream": {"account": SENSORS, "subject": subject}} for subject in said],
        },
        SENSORS: {
            "limits": {"max_subscriptions": MAX_SENSOR_SUBSCRIPTIONS, "max_connections": MAX_SENSOR_CONNECTIONS},
            "exports": [{"stream": subject, "accounts": [STREAMS]} for subject in said],
            "imports": [
                *({"service": {"account": STREAMS, "subject": subject}} for subject in services),
                *({"stream": {"account": STREAMS, "subject": subject}} for subject in told),
            ],
        },
        ASKED: {"users": [{"user": CALLOUT, "password": passwords[CALLOUT], "permissions": callout_permissions()}]},
    }
