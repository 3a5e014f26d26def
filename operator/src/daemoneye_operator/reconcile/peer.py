"""A FederationPeer's status.

Responsible for what the conditions say; the exchange itself arrives with a later release, and until then nobody is to take silence for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from daemoneye import conditions
from daemoneye.api.v1alpha1.peer import FederationPeerSpec
from daemoneye_operator.reconcile import clock


def peer_status(obj: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Status of a FederationPeer object; `now` in seconds since 1970."""
    previous, generation = obj.get("status") or {}, obj["metadata"].get("generation", 0)
    reason = "NotImplemented"
    message = "This release keeps the peer's settings and connects to nobody: federation arrives with a later release."
    try:
        FederationPeerSpec.model_validate(obj.get("spec") or {}, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason, message = "InvalidSpec", f"spec.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    kinds = (conditions.READY, conditions.CONNECTED, conditions.IN_SYNC, conditions.CONFLICTS_PENDING)
    new = [conditions.condition(kind, False, reason, message) for kind in kinds]
    return {
        "observedGeneration": generation,
        "conditions": conditions.put(
            previous.get("conditions") or (), new, generation=generation, now=clock.rfc3339(now)
        ),
        "conflicts": 0,
    }
