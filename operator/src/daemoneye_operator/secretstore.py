"""The broker's Secrets on the API server.

Responsible for bringing them to what :mod:`daemoneye_operator.brokersecrets` decides, and for having NATS take a changed one; not for their
content.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from daemoneye.broker.access import Access
from daemoneye.broker.roles import inbox_prefix
from daemoneye_operator import brokerconf, brokersecrets, pki, resources
from daemoneye_operator.kube import Kube, path_of
from daemoneye_operator.settings import OperatorSettings

RESTART_ANNOTATION: Final = "daemoneye.io/broker-config"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What was made or found, by name of the Secret, and when its certificates end.

    Attributes:
        data: Contents by name.
        expires: Seconds since 1970 by certificate: `ca`, and of the release's own broker `server`.
        trouble: Why what cert-manager keeps is not taken, empty if it is.
    """

    data: Mapping[str, Mapping[str, bytes]]
    expires: Mapping[str, float] = field(default_factory=dict)
    trouble: str = ""


async def ensure(kube: Kube, settings: OperatorSettings, owner: Mapping[str, Any] | None) -> Secrets:
    """Make or renew what is missing or about to expire.

    Raises:
        ApiError: The API server did not answer or refused.
        ConfigError: A Secret of an external broker lacks something, or that of cert-manager is no good and there is none of before.
    """
    roles = [brokersecrets.role_name(settings, role) for role in brokersecrets.roles(settings)]
    wanted = dict.fromkeys((*brokersecrets.sources(settings), *roles))
    objects = {name: obj for name in wanted if (obj := await kube.get(_path(settings, name))) is not None}
    found = {name: _data(obj) for name, obj in objects.items()}
    now = datetime.now(UTC)
    plan = brokersecrets.desired(settings, found, now)
    server = brokerconf.server_name(settings)
    # The servers' pods must be of this configuration; written with the Secret itself, so that no crash comes between.
    running = plan.digest if plan.restart else _annotation(objects.get(server))
    place = path_of(resources.APPS, "statefulsets", server, settings.namespace)
    servers = await kube.get(place) if plan.digest and (running or server not in objects) else None
    if server not in objects and _serves(servers):
        running = plan.digest  # somebody deleted what the servers run with
    for name, data in plan.secrets.items():
        if found.get(name) != data:
            annotations = {RESTART_ANNOTATION: running} if name == server and running else {}
            await kube.apply(_path(settings, name), _object(settings, name, data, owner, annotations))
            _log.info("Secret %s %s", name, "renewed" if name in found else "made")
    if servers is not None and running not in ("", _annotation(servers["spec"]["template"])):
        # NATS reads its files at its start; another annotation of the template replaces its pods, one after the other.
        _log.info("the broker's configuration or certificate changed: StatefulSet %s is restarted", server)
        await kube.merge(place, {"spec": {"template": {"metadata": {"annotations": {RESTART_ANNOTATION: running}}}}})
    return Secrets(plan.secrets, _expires(settings, plan.secrets, now), plan.trouble)


def access(settings: OperatorSettings, secrets: Secrets, role: str) -> Access:
    """A role's way to the broker; the authorities go into a file, which is what TLS wants."""
    data = secrets.data[brokersecrets.role_name(settings, role)]
    ca: Path | None = None
    if authorities := data.get("ca.crt"):
        ca = Path(tempfile.gettempdir()) / f"daemoneye-{role}-ca.crt"
        if not ca.exists() or ca.read_bytes() != authorities:
            _replace(ca, authorities)
    return Access(
        urls=(settings.nats.url,),
        user=data["user"].decode(),
        password=data["password"].decode(),
        inbox_prefix=data.get("inbox_prefix", inbox_prefix(role).encode()).decode(),
        tls_ca=ca,
    )


def _replace(path: Path, data: bytes) -> None:
    """Who reads the file meanwhile, to connect anew, finds the former one or this one, whole."""
    fd, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        Path(part).replace(path)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise


def _serves(servers: Mapping[str, Any] | None) -> bool:
    """Whether a server runs already: at an installation none can before its Secret is there."""
    return bool(servers and (servers.get("status") or {}).get("readyReplicas"))


def _expires(settings: OperatorSettings, secrets: Mapping[str, Mapping[str, bytes]], now: datetime) -> dict[str, float]:
    authorities = secrets[brokersecrets.role_name(settings, "operator")].get("ca.crt", b"")
    server = secrets.get(brokerconf.server_name(settings), {}).get("tls.crt", b"")
    # Beside the authority that counts there may be others, which nobody misses when they end.
    ends = {"ca": pki.authority_expiry(server, authorities, now), "server": pki.expiry(server)}
    return {which: end for which, end in ends.items() if end is not None}


def _annotation(obj: Mapping[str, Any] | None) -> str:
    found = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    return str(found.get(RESTART_ANNOTATION, ""))


def _path(settings: OperatorSettings, name: str) -> str:
    return path_of(resources.CORE, "secrets", name, settings.namespace)


def _data(obj: Mapping[str, Any]) -> dict[str, bytes]:
    out = {}
    for key, text in (obj.get("data") or {}).items():
        try:
            out[key] = base64.b64decode(text, validate=True)
        except binascii.Error:
            out[key] = b""
    return out


def _object(
    settings: OperatorSettings,
    name: str,
    data: Mapping[str, bytes],
    owner: Mapping[str, Any] | None,
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": "daemoneye",
        "app.kubernetes.io/instance": settings.release,
        "app.kubernetes.io/part-of": "daemoneye",
        "app.kubernetes.io/managed-by": "daemoneye-operator",
    }
    metadata: dict[str, Any] = {"name": name, "namespace": settings.namespace, "labels": labels}
    if annotations:
        metadata["annotations"] = dict(annotations)
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    encoded = {key: base64.b64encode(value).decode() for key, value in sorted(data.items())}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}
