"""Which interfaces a capture means: names, shell patterns, `auto`, or the interface of the default route.

Pure: what a namespace has (:mod:`daemoneye_sensor.packets.links`) goes in, what is to be captured comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from daemoneye_sensor.packets.links import Link, Network

AUTO: Final = "auto"
DEFAULT: Final = ""
"""The interface of the default route."""
MOST: Final = 256
"""Interfaces that are captured at once."""
_PATTERN: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be captured.

    Attributes:
        named: Interfaces that are meant by name or because of a default route: few.
        others: Those that a pattern or `auto` found beside them: as many as there are pods.
        missing: Settings that mean nothing that is there.
        left_out: How many were too many.
        open_ended: Whether more may come.
    """

    named: tuple[Link, ...]
    others: tuple[Link, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: int = 0
    open_ended: bool = False


def choose(settings: Sequence[str], network: Network) -> Chosen:
    """The interfaces that the settings of a capture mean now.

    `auto` means the interfaces of all default routes, IPv4 and IPv6, and every veth (or netkit) whose other end is in another namespace: what two
    pods of one node say to each other crosses no other interface.
    """
    by_name = {link.name: link for link in network.links.values()}
    uplinks = [network.links[index] for index in network.uplinks if index in network.links]
    named: dict[int, Link] = {}
    others: dict[int, Link] = {}
    missing: list[str] = []
    unmatched: list[str] = []
    for setting in settings:
        if setting == DEFAULT:
            named.update((link.index, link) for link in uplinks[:1])
        elif setting == AUTO:
            named.update((link.index, link) for link in uplinks)
            others.update((link.index, link) for link in by_name.values() if link.pod)
        elif _PATTERN.isdisjoint(setting):
            if setting in by_name:
                named[by_name[setting].index] = by_name[setting]
            else:
                missing.append(setting)
            continue
        else:
            found = [link for link in by_name.values() if fnmatchcase(link.name, setting)]
            others.update((link.index, link) for link in found)
            if not found:
                unmatched.append(setting)
            continue
        if not uplinks and (setting == DEFAULT or not others):
            missing.append(setting)
    if not named and not others:
        missing += unmatched  # a pattern may wait for its first pod, but not as the only one
    first = sorted(named.values(), key=lambda link: link.index)
    rest = sorted((link for link in others.values() if link.index not in named), key=lambda link: link.index)
    room = max(MOST - len(first), 0)
    return Chosen(
        tuple(first[:MOST]),
        tuple(rest[:room]),
        tuple(missing),
        max(len(first) + len(rest) - MOST, 0),
        any(map(_open_ended, settings)),
    )


def absent(setting: str) -> str:
    """What is wrong about a setting that is `missing`, in words."""
    if setting in (DEFAULT, AUTO):
        return "there is no default route whose interface could be captured"
    return f"no interface is called like {setting!r}" if _open_ended(setting) else f"there is no interface {setting!r}"


def _open_ended(setting: str) -> bool:
    return setting == AUTO or not _PATTERN.isdisjoint(setting)
