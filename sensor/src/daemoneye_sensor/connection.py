"""How the sensor reaches the broker: addresses, one user, TLS.

Responsible for turning these settings into what nats-py wants; not for connecting
(:mod:`daemoneye_sensor.publisher`) nor for where the settings come from.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from daemoneye.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_URL: Final = re.compile(r"(?:nats|tls|ws|wss)://[^\s/@]+(?:/\S*)?")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the broker as one user; ``password_file`` is read at every connect, so that it can be renewed.

    TLS is used for ``tls://`` URLs and whenever one of the TLS files is named; ``tls_ca`` replaces the system's
    authorities, ``tls_cert`` with ``tls_key`` is the client's own certificate.
    """

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    inbox_prefix: str = "_INBOX"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def options(self) -> dict[str, Any]:
        """Arguments for nats-py's ``connect``; raises ConfigError for a malformed URL or a file that cannot be read."""
        for url in self.urls:
            if not _URL.fullmatch(url):
                message = f"{url!r} is not a broker's address (nats://host:port, tls://, ws:// or wss://)"
                raise ConfigError(message)
        options: dict[str, Any] = {"servers": list(self.urls), "inbox_prefix": self.inbox_prefix}
        try:
            password = self.password_file.read_text("utf-8").strip() if self.password_file else self.password
            if self.tls_ca or self.tls_cert:
                options["tls"] = ssl.create_default_context(cafile=self.tls_ca)
                if self.tls_cert:
                    options["tls"].load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot read the broker's credentials: {error}"
            raise ConfigError(message) from error
        if self.user:
            options |= {"user": self.user, "password": password}
        return options
