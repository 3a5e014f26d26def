"""`daemoneye_operator check`: what `helm test` runs.

Responsible for asking each component whether it is ready and for saying what it answered.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

from daemoneye.escape import escape
from daemoneye_operator.settings import OperatorSettings

COMPONENTS: Final = ("operator", "identity", "analytics")
OWN_BROKER: Final = ("callout",)
"""Those that only the release's own broker needs."""
_TIMEOUT_S: Final = 5.0


def components(settings: OperatorSettings, url: str = "http://{name}.{namespace}.svc:{port}/readyz") -> int:
    """Ask each; 0 when all are ready, else 1."""
    bad = 0
    for component in (*COMPONENTS, *(() if settings.nats.external else OWN_BROKER)):
        name = f"{settings.fullname}-{component}"
        ready, said = _ask(url.format(name=name, namespace=settings.namespace, port=settings.health_port))
        print(f"{'✓' if ready else '✗'} {name}: {escape(said)}", flush=True)  # noqa: T201 - that is what it is for
        bad += not ready
    return 1 if bad else 0


def _ask(url: str) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the scheme is ours
            return True, _words(answer.read(65_536))
    except urllib.error.HTTPError as error:
        return False, _words(error.read(65_536))
    except (OSError, ValueError) as error:
        return False, f"does not answer: {error}"


def _words(body: bytes) -> str:
    try:
        said: Any = json.loads(body)
        return ", ".join(f"{key}: {value}" for key, value in said.items() if key != "ok" and value) or "ready"
    except (ValueError, AttributeError):
        return body.decode("utf-8", "replace")[:500]
