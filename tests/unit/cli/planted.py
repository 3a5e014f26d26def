"""Secrets of every kind, to be planted where real ones would be, and the search for them in an archive."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

SECRETS = {
    "password": "Planted-Pw-81b0",
    "token": "Planted-Tok-55e1",
    "bearer": "PlantedBearer0123456789abcdef",
    "jwt": "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJwbGFudGVkIn0.cGxhbnRlZC1zaWduYXR1cmU",
    "key": "UGxhbnRlZEtleUJvZHkwMTIzNDU2Nzg5",
    "userinfo": "Planted-Userinfo-7c",
    "basic": "cGxhbnRlZDpiYXNpYw==",
    "option": "Planted-Option-2d",
    "seed": "SUA" + "PLANTED2" * 6 + "ABCDEFG",
    "cookie": "Planted-Cookie-9f",
}
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRETS['key']}\n-----END PRIVATE KEY-----"
ARGUMENT = "planted-argument-of-a-user"
"""Not to be told from any other word: only leaving arguments out keeps it in."""


def log() -> str:
    """Lines of a log with every kind of secret, and two lines that matter."""
    return "\n".join(
        (
            "2026-01-01T00:00:00Z INFO the first line",
            f"WARNING cannot log in: password={SECRETS['password']} refused",
            json.dumps({"level": "info", "apiToken": SECRETS["token"], "message": "sent"}),
            f"GET /x HTTP/1.1 Authorization: Bearer {SECRETS['bearer']}",
            f"the token {SECRETS['jwt']} has expired",
            PEM,
            f"connecting to nats://sensor:{SECRETS['userinfo']}@broker:4222",
            f"curl -H 'Authorization: Basic {SECRETS['basic']}' https://host",
            f"ran tool --client-secret {SECRETS['option']} --verbose",
            f"seed {SECRETS['seed']}",
            f"Set-Cookie: session={SECRETS['cookie']}",
            "2026-01-01T00:00:01Z ERROR the last line",
            "",
        )
    )


def settings() -> dict[str, Any]:
    """A configuration with every kind of secret in values of its own and within text."""
    return {
        "password": SECRETS["password"],
        "nats": {"url": f"nats://u:{SECRETS['userinfo']}@broker:4222", "authToken": SECRETS["token"]},
        "headers": [{"name": "Authorization", "value": f"Bearer {SECRETS['bearer']}"}],
        "pem": PEM,
        "arguments": ["tool", "--client-secret", SECRETS["option"]],
        "text": log(),
        "nested": json.dumps({"credentials": {"jwt": SECRETS["jwt"], "seed": SECRETS["seed"]}}),
        "harmless": "stays",
    }


def found_in(path: Path) -> dict[str, bytes]:
    """An archive's entries; fails if one of them has a planted secret."""
    entries = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            entries[member.name.partition("/")[2]] = file.read()
    for name, data in entries.items():
        for kind, secret in SECRETS.items():
            assert secret.encode() not in data, f"{kind} in {name}"
            assert secret not in name
    return entries
