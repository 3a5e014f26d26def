"""Whether a token is a sensor's, and of which node: what the API server said of it, judged.

Responsible for the decision as a function of a TokenReview's status; not for asking (:mod:`daemoneye_operator.callout.reviews`) nor for what the
node may then do (:mod:`daemoneye.broker.roles`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemoneye_operator.reconcile import daemonset
from daemoneye_operator.settings import OperatorSettings

UNKNOWN_USER: Final = "UnknownUser"
NO_TOKEN: Final = "NoToken"  # noqa: S105 - a reason
TOO_LONG: Final = "TooLong"
NOT_AUTHENTICATED: Final = "NotAuthenticated"
WRONG_AUDIENCE: Final = "WrongAudience"
WRONG_ACCOUNT: Final = "WrongAccount"
NO_NODE: Final = "NoNode"
API_UNAVAILABLE: Final = "ApiUnavailable"
BUSY: Final = "Busy"
REASONS: Final = (
    UNKNOWN_USER, NO_TOKEN, TOO_LONG, NOT_AUTHENTICATED, WRONG_AUDIENCE, WRONG_ACCOUNT, NO_NODE, API_UNAVAILABLE, BUSY,
)  # fmt: skip
"""Why a connection is refused; docs/troubleshooting.md has a line for each."""

_EXTRA: Final = "authentication.kubernetes.io/"
_MESSAGE: Final = 300


@dataclass(frozen=True, slots=True)
class Granted:
    """The token is the sensor's of a node (its plain name), in this pod."""

    node: str
    pod: str = ""
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not, or nobody can say; node and pod where they are known."""

    reason: str
    message: str
    node: str = ""
    pod: str = ""


def judge(status: Mapping[str, Any], settings: OperatorSettings) -> Granted | Refused:
    """The decision for the status of a TokenReview that asked for our audience."""
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    node, pod, pod_uid = (_first(extra, name) for name in ("node-name", "pod-name", "pod-uid"))

    def refused(reason: str, message: str) -> Refused:
        return Refused(reason, message[:_MESSAGE], node, pod)

    if status.get("authenticated") is not True:
        return refused(NOT_AUTHENTICATED, str(status.get("error") or "the API server does not know this token"))
    audience = daemonset.token_audience(settings)
    # An authenticator that knows nothing of audiences leaves them out, and would take a token that was meant for anybody.
    if audience not in (status.get("audiences") or ()):
        return refused(WRONG_AUDIENCE, f"the token is not for {audience}")
    account = f"system:serviceaccount:{settings.namespace}:{daemonset.name(settings)}"
    if user.get("username") != account:
        return refused(WRONG_ACCOUNT, f"the token is of {user.get('username')}, not of {account}")
    if not node:
        return refused(NO_NODE, "the token names no node: it is bound to no pod, or Kubernetes is older than 1.30")
    return Granted(node, pod, pod_uid)


def _first(extra: Mapping[str, Any], name: str) -> str:
    values = extra.get(f"{_EXTRA}{name}")
    return str(values[0])[:253] if isinstance(values, list) and len(values) == 1 else ""
