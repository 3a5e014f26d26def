"""Analytics' configuration file.

Responsible for its form and for refusing what does not fit, by name; detectors' own parameters are checked by
`daemoneye_analytics.registry`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from daemoneye.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Broker:
    """How to reach the broker. `tls` names PEM files: `ca`, `cert` and `key`, each optional; None connects without."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    inbox_prefix: str = "_INBOX"
    tls: Mapping[str, str] | None = None

    def options(self) -> dict[str, Any]:
        """Arguments for nats-py's `connect`.

        Raises:
            ConfigError: A TLS file cannot be read.
        """
        options: dict[str, Any] = {"servers": [self.url], "inbox_prefix": self.inbox_prefix.encode()}
        if self.user:
            options |= {"user": self.user, "password": self.password}
        if self.tls is not None:
            try:
                options["tls"] = ssl.create_default_context(cafile=self.tls.get("ca"))
                if "cert" in self.tls:
                    options["tls"].load_cert_chain(self.tls["cert"], self.tls.get("key"))
            except OSError as error:
                raise ConfigError(f"nats.tls: {error}") from error
        return options


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the configuration analytics uses; times in seconds. Other keys are for other readers and later versions."""

    broker: Broker
    shard: int = 0
    behavioral: bool = True
    detectors: tuple[Mapping[str, Any], ...] = ()
    status_interval: float = 10.0


def load(path: Path) -> Settings:
    """Read the file.

    Raises:
        ConfigError: It cannot be read, is no JSON, or a value is missing or of the wrong type (named).
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return parse(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: object) -> Settings:
    """Settings from the parsed file; see `load`."""
    root = _typed(document, dict, "the document")
    nats = _get(root, "nats", dict)
    analytics = _get(root, "analytics", dict, {})
    tls = nats.get("tls")
    return Settings(
        broker=Broker(
            url=_get(nats, "url", str),
            user=_get(nats, "user", str, ""),
            password=_get(nats, "password", str, ""),
            inbox_prefix=_get(nats, "inbox_prefix", str, "_INBOX"),
            tls=None if tls is None else {str(k): str(v) for k, v in _typed(tls, dict, "nats.tls").items()},
        ),
        shard=_get(root, "shard", int, 0),
        behavioral=_get(analytics, "enable_behavioral_analysis", bool, default=True),
        detectors=tuple(_typed(d, dict, "analytics.detectors") for d in _get(analytics, "detectors", list, [])),
        status_interval=float(_get(root, "status_interval_s", (int, float), 10)),
    )


def _get(table: Mapping[str, Any], name: str, kind: Any, default: T | None = None) -> Any:
    if name not in table:
        if default is None:
            raise ConfigError(f"{name!r} is missing")
        return default
    return _typed(table[name], kind, repr(name))


def _typed(value: object, kind: Any, name: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "number")
        raise ConfigError(f"{name} is {value!r}, not of type {wanted}")
    return value
