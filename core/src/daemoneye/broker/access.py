"""How a process reaches the broker: addresses, one user, TLS.

Responsible for reading these from a configuration file and for turning them into what nats-py wants; not for connecting
(:mod:`daemoneye.broker.link`).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from daemoneye.errors import ConfigError

_URL: Final = re.compile(r"(?:nats|tls|ws|wss)://[^\s/@]+(?:/\S*)?")
_FILES: Final = ("user_file", "password_file", "inbox_prefix_file")


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the broker as one user.

    The files are read at every connect, so that credentials can be renewed; they take the place of the values. `inbox_suffix` goes behind the
    inboxes' prefix, wherever that comes from: one node's part of what its role may listen to. TLS is used for ``tls://``
    URLs and whenever one of the TLS files is named; ``tls_ca`` replaces the system's authorities, ``tls_cert`` with ``tls_key`` is the
    client's own certificate; ``tls_hostname`` is the name that the broker's certificate must have, where that is not the URL's.
    """

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    inbox_prefix: str = "_INBOX"
    inbox_suffix: str = ""
    user_file: Path | None = None
    password_file: Path | None = None
    inbox_prefix_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_hostname: str = ""

    @property
    def url(self) -> str:
        """The first address, for messages."""
        return self.urls[0]

    @classmethod
    def parse(cls, raw: object, where: str = "nats") -> Self:
        """From a configuration's section (url, user, password, inbox_prefix, their ``…_file`` forms, tls with ca, cert and key).

        Raises:
            ConfigError: It has no url, or a value is no text; the message begins with `where`.
        """
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{where} is {raw!r}, not a mapping with a url")
        tls = raw.get("tls") or {}
        if not isinstance(tls, Mapping):
            raise ConfigError(f"{where}.tls is {tls!r}, not a mapping with ca, cert and key")
        values = {name: _text(raw, name, where) for name in ("url", "user", "password", "inbox_prefix", *_FILES)}
        if not values["url"]:
            raise ConfigError(f"{where}: 'url' is missing")
        ca, cert, key = (_path(_text(tls, name, f"{where}.tls")) for name in ("ca", "cert", "key"))
        return cls(
            urls=(values["url"],),
            user=values["user"],
            password=values["password"],
            inbox_prefix=values["inbox_prefix"] or "_INBOX",
            user_file=_path(values["user_file"]),
            password_file=_path(values["password_file"]),
            inbox_prefix_file=_path(values["inbox_prefix_file"]),
            tls_ca=ca,
            tls_cert=cert,
            tls_key=key,
        )

    @classmethod
    def mounted(cls, url: str, directory: Path, *, tls_ca: Path | None) -> Self:
        """From a role's Secret, as a pod mounts it."""
        return cls(
            urls=(url,),
            user_file=directory / "user",
            password_file=directory / "password",
            inbox_prefix_file=directory / "inbox_prefix",
            tls_ca=tls_ca,
        )

    def fingerprint(self) -> str:
        """Changes with whatever a connection would be made with; a file that cannot be read counts as empty."""
        values = (self.urls, self.user, self.password, self.inbox_prefix, self.inbox_suffix)
        digest = hashlib.sha256(repr(values).encode())
        files = (self.user_file, self.password_file, self.inbox_prefix_file, self.tls_ca, self.tls_cert, self.tls_key)
        for path in files:
            content = b""
            if path is not None:
                with contextlib.suppress(OSError):
                    content = path.read_bytes()
            digest.update(len(content).to_bytes(8, "big") + content)
        return digest.hexdigest()

    def options(self) -> dict[str, Any]:
        """Arguments for nats-py's ``connect``.

        Raises:
            ConfigError: A URL is malformed or a file cannot be read.
        """
        for url in self.urls:
            if not _URL.fullmatch(url):
                raise ConfigError(f"{url!r} is not a broker's address (nats://host:port, tls://, ws:// or wss://)")
        try:
            user, password = _read(self.user_file, self.user), _read(self.password_file, self.password)
            prefix = ".".join(filter(None, (_read(self.inbox_prefix_file, self.inbox_prefix), self.inbox_suffix)))
            options: dict[str, Any] = {"servers": list(self.urls), "inbox_prefix": prefix.encode()}
            if self.tls_ca or self.tls_cert or any(url.startswith("tls://") for url in self.urls):
                options["tls"] = ssl.create_default_context(cafile=self.tls_ca)
                if self.tls_cert:
                    options["tls"].load_cert_chain(self.tls_cert, self.tls_key)
                if self.tls_hostname:
                    options["tls_hostname"] = self.tls_hostname
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the broker's credentials: {error}") from error
        if user:
            options |= {"user": user, "password": password}
        return options


def _read(path: Path | None, value: str) -> str:
    return path.read_text("utf-8").strip() if path else value


def _path(value: str) -> Path | None:
    return Path(value) if value else None


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{where}.{name} is {value!r}, not text")
    return value
