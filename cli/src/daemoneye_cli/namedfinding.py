"""The Finding object that somebody names: by its name, with or without its namespace, or by the id of its last finding.

Responsible for that it is one and clear which; not for what is done with it.
"""

from __future__ import annotations

import re
from typing import Final

from daemoneye.errors import ConfigError
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.survey import FINDINGS

ID: Final = re.compile(r"[0-9a-f]{32}")
_OBJECT: Final = re.compile(r"(?:([a-z0-9-]{1,63})/)?([a-z0-9.-]{1,253})")


def by_name(kube: Kubectl, text: str) -> Object:
    """Give the object of NAMESPACE/NAME or NAME.

    Raises:
        ConfigError: That names no finding, or several.
    """
    named = _OBJECT.fullmatch(text)
    if named is None:
        raise ConfigError(f"{text}: write NAMESPACE/NAME of a Finding, its NAME, or a finding's id of 32 hex digits")
    found = kube.items(FINDINGS, named[1], field=f"metadata.name={named[2]}")
    if not found:
        raise ConfigError(f"there is no Finding {text}: kubectl daemoneye findings shows those that there are")
    if len(found) > 1:
        places = ", ".join(sorted(str(one.get("metadata", {}).get("namespace")) for one in found))
        raise ConfigError(f"there is a Finding {text} in several namespaces ({places}): write NAMESPACE/{text}")
    return found[0]


def by_name_or_id(kube: Kubectl, text: str) -> Object:
    """Give the object of NAMESPACE/NAME, NAME or the id of the finding that was its last.

    Raises:
        ConfigError: That names no finding, or several.
    """
    if not ID.fullmatch(text):
        return by_name(kube, text)
    for one in kube.items(FINDINGS):
        if last_id(one) == text:
            return one
    raise ConfigError(
        f"{text} is no Finding's last finding: write its NAMESPACE/NAME, as kubectl daemoneye findings shows it"
    )


def last_id(finding: Object) -> str:
    """Give the id of the finding that was the object's last; empty while it says none."""
    return str((finding.get("status") or {}).get("lastFindingID") or "")
