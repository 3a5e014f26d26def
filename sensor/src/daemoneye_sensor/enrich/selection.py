"""Which policies a cgroup belongs to.

Responsible for belonging as a mask, one bit a policy of the node's configuration; not for where labels come from
(:mod:`daemoneye_sensor.enrich.pods`). Only policies that ask for what is judged count: for kernel monitoring where it is processes and their
sockets, for capture where it is packets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daemoneye.errors import ConfigError
from daemoneye.events.policy_set import name_text, set_text
from daemoneye.nodeconfig import NodeConfig, NodePolicy
from daemoneye.podidentity import PodIdentity
from daemoneye.selectors import Selector
from daemoneye_sensor.answers import asks_for_kernel, filter_of

_KEPT: Final = 8192


def captures(policy: NodePolicy) -> bool:
    """Whether a policy asks for packets."""
    return filter_of(policy) is not None


class Selection:
    """The selectors of those policies of one configuration that ask for something, compiled.

    Attributes:
        everyone: Mask of all policies: what belongs to nobody knows whom belongs to all.
        host: Mask of the policies to which processes outside of pods belong.
        broken: UIDs of policies whose selectors mean nothing, with what is wrong; nothing belongs to them.
    """

    def __init__(self, config: NodeConfig, asks: Callable[[NodePolicy], bool] = asks_for_kernel) -> None:
        self.everyone = self.host = 0
        self.broken: dict[str, str] = {}
        self._names = [policy.name for policy in config.policies]
        self._bits = {name_text(name): 1 << place for place, name in enumerate(self._names)}
        self._selectors: list[tuple[int, Selector, Selector]] = []
        self._masks: dict[str, tuple[PodIdentity, int]] = {}
        self._texts: dict[int, bytes] = {}
        for place, policy in enumerate(config.policies):
            if not asks(policy):
                continue
            try:
                selectors = Selector.parse(policy.namespace_selector), Selector.parse(policy.pod_selector)
            except (ConfigError, KeyError, TypeError, AttributeError, ValueError) as error:
                self.broken[policy.uid] = f"its selectors cannot be used here: {error!s}"
                continue
            self._selectors.append((1 << place, *selectors))
            self.everyone |= 1 << place
            if policy.host:
                self.host |= 1 << place

    def of(self, pod: PodIdentity) -> int:
        """Mask of the policies that a pod belongs to: all of them where labels are missing, or a pod could get rid of a policy by labels."""
        kept = self._masks.get(pod.uid)
        if kept is not None and kept[0] is pod:
            return kept[1]
        mask = self.everyone if pod.cut else 0
        for bit, namespaces, pods in self._selectors:
            if namespaces.matches(pod.namespace_labels) and pods.matches(pod.labels):
                mask |= bit
        if len(self._masks) >= _KEPT:
            self._masks.clear()
        self._masks[pod.uid] = (pod, mask)
        return mask

    def names(self, mask: int) -> bytes:
        """Names of a mask's policies, each ended by a zero byte, as `pod_identity` holds them."""
        if mask not in self._texts:
            self._texts[mask] = set_text(name for place, name in enumerate(self._names) if mask >> place & 1)
        return self._texts[mask]

    def mask(self, names: bytes) -> int:
        """The inverse; names of policies that there are no more count for nothing."""
        return sum(self._bits.get(name, 0) for name in set(names.split(b"\0")))
