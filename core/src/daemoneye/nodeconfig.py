"""What a node's sensor is told, and what it answers: the documents between operator and sensor.

Responsible for their form, their bounds and the hash that names a configuration. How policies merge into one is the operator's affair
(``daemoneye_operator.reconcile.merge``), what a sensor does with it the sensor's.

The operator publishes each distinct configuration once, as key ``<hash>`` of the bucket ``daemoneye_configs``, and points to it by a
:class:`NodePointer` under ``<node>.config`` in ``daemoneye_nodes``. The sensor answers in its heartbeat with one :class:`NodeAnswer`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from daemoneye.errors import CorruptData

MAX_POLICIES: Final = 64
"""Policies effective on one node: belonging is a bit in an unsigned 64-bit mask."""
MAX_BYTES: Final = 1 << 20
"""Largest configuration, as JSON."""
MAX_MESSAGE: Final = 512
_MAX_NAME: Final = 253
_MAX_REASON: Final = 64

ACTIVE: Final = "Active"
INACTIVE: Final = "Inactive"
REFUSED: Final = "Refused"
STATES: Final = (ACTIVE, INACTIVE, REFUSED)


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """One policy as a node needs it; its place in the list is its bit in the mask of belonging.

    Attributes:
        name: Name of the DaemonEyePolicy.
        uid: Its UID: a policy that was deleted and made again is another one.
        generation: Generation of the spec that this comes from.
        host: Whether processes outside of pods belong to it: when it has neither selector.
        namespace_selector: LabelSelector in JSON over the labels of a pod's namespace; None selects every namespace.
        pod_selector: LabelSelector in JSON over a pod's labels; None selects every pod.
        kernel: What it asks of kernel monitoring, in snake_case (``daemoneye.api.v1alpha1.policy.KernelMonitoring``).
        network: What it asks of network monitoring, likewise.
    """

    name: str
    uid: str
    generation: int
    host: bool = True
    namespace_selector: Mapping[str, Any] | None = None
    pod_selector: Mapping[str, Any] | None = None
    kernel: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The configuration of every node on which the same policies meet.

    Attributes:
        policies: The effective ones, oldest first, at most MAX_POLICIES.
        kernel: Merged settings of kernel monitoring, in snake_case.
        network: Merged settings of network monitoring, in snake_case; ``capture_interfaces`` and ``capture_filters`` are the unions.
        remove: The node is to be left: programs, pins and spool go, then the sensor says state ``removed``.
    """

    policies: tuple[NodePolicy, ...] = ()
    kernel: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    remove: bool = False

    @property
    def hash(self) -> str:
        """Name of this configuration: 32 hex digits of the SHA-256 of its canonical JSON."""
        return hashlib.sha256(self.encode()).hexdigest()[:32]

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no blanks."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`; keys that a newer operator added are ignored.

        Raises:
            CorruptData: It is not such a document.
        """
        try:
            value = json.loads(data)
            policies = tuple(_known(NodePolicy, entry) for entry in value["policies"])
            return cls(policies, dict(value["kernel"]), dict(value["network"]), bool(value.get("remove", False)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptData(f"not a node's configuration: {error}") from error


@dataclass(frozen=True, slots=True)
class NodePointer:
    """Which configuration a node is to run.

    Attributes:
        hash: Name of the configuration.
        node: Plain name of the node that this is for: a pointer that lies, or was sent, where another node looks means nothing there. Empty in
            those that an operator before this field wrote.
    """

    hash: str
    node: str = ""

    def encode(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`.

        Raises:
            CorruptData: It is not such a document.
        """
        try:
            value = json.loads(data)
            return cls(str(value["hash"]), str(value.get("node", "")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptData(f"not a pointer to a configuration: {error}") from error


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What a node says to one policy. `reason` is CamelCase and empty when active, `message` one sentence."""

    name: str
    uid: str
    generation: int
    state: str = ACTIVE
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node runs: the key ``config`` of its heartbeat.

    Attributes:
        hash: The configuration that it runs; empty before it has one.
        policies: One answer a policy of it.
        programs: Whether the kernel programs that it asks for are loaded and attached.
        capture: Whether packets are captured as asked (true when nothing is asked).
        problem: Reason and sentence why programs or capture are not as they should be, both empty otherwise.
    """

    hash: str = ""
    policies: tuple[PolicyAnswer, ...] = ()
    programs: bool = False
    capture: bool = True
    problem: tuple[str, str] = ("", "")

    def to_json(self) -> dict[str, Any]:
        """The JSON form; messages are cut at MAX_MESSAGE characters."""
        value = asdict(self)
        for answer in value["policies"]:
            answer["message"] = answer["message"][:MAX_MESSAGE]
        value["problem"] = [self.problem[0], self.problem[1][:MAX_MESSAGE]]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; sizes are bounded, for a node may be hostile.

        Raises:
            CorruptData: It is not such a document.
        """
        try:
            answers = tuple(map(_policy_answer, value["policies"][:MAX_POLICIES]))
            reason, message = value.get("problem", ("", ""))
            return cls(
                str(value["hash"])[:64], answers, bool(value["programs"]), bool(value["capture"]),
                (str(reason)[:_MAX_REASON], str(message)[:MAX_MESSAGE]),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptData(f"not a node's answer: {error}") from error


def _policy_answer(value: Mapping[str, Any]) -> PolicyAnswer:
    name, uid, generation = value["name"], value["uid"], value["generation"]
    state, reason, message = value.get("state", ACTIVE), value.get("reason", ""), value.get("message", "")
    if not isinstance(generation, int) or not all(
        isinstance(text, str) for text in (name, uid, state, reason, message)
    ):
        raise TypeError("what a policy is answered is text, and its generation is a whole number")
    if state not in STATES:
        raise ValueError(f"a state is none of {', '.join(STATES)}")
    return PolicyAnswer(
        name[:_MAX_NAME], uid[:_MAX_NAME], generation, state, reason[:_MAX_REASON], message[:MAX_MESSAGE]
    )


def _known(kind: type[Any], value: Mapping[str, Any]) -> Any:
    fields = kind.__dataclass_fields__
    return kind(**{name: content for name, content in value.items() if name in fields})
