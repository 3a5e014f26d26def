"""The installation that a cluster has: found by its operator's labels.

Responsible for which release is meant and how its objects are called; not for how it fares (:mod:`daemoneye_cli.survey`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from daemoneye.errors import ConfigError, MachineError
from daemoneye_cli.errors import Forbidden
from daemoneye_cli.kube import Kubectl, Object

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
VERSION: Final = "app.kubernetes.io/version"
INSTALL: Final = "helm install daemoneye charts/daemoneye --namespace daemoneye"

_OPERATOR: Final = f"{NAME}=daemoneye,{COMPONENT}=operator"


@dataclass(frozen=True, slots=True)
class Release:
    """One installation: the Helm release's name, its namespace, what its objects' names begin with, its version."""

    name: str
    namespace: str
    fullname: str
    version: str

    @property
    def selector(self) -> str:
        """Labels of everything that belongs to it."""
        return f"{NAME}=daemoneye,{INSTANCE}={self.name}"


def find(kube: Kubectl, namespace: str | None) -> Release:
    """Give the cluster's only installation, or the one in ``namespace``.

    Raises:
        ConfigError: There are several; the message names them.
        MachineError: There is none, or the user may not look for it.
    """
    try:
        operators = kube.items("deployments.apps", namespace, _OPERATOR)
    except Forbidden as error:
        if namespace is not None:
            raise
        raise Forbidden(error.args[0], fix="name the installation's namespace: -n NAMESPACE") from None
    releases = sorted(map(_release, operators), key=lambda release: (release.namespace, release.name))
    if not releases:
        where = f"in namespace {namespace}" if namespace else "in this cluster"
        raise MachineError(f"no DaemonEye is installed {where}", fix=INSTALL)
    if len(releases) > 1:
        found = ", ".join(f"{release.name} in namespace {release.namespace}" for release in releases)
        raise ConfigError(f"there are {len(releases)} installations: {found}: choose one with -n NAMESPACE")
    return releases[0]


def _release(operator: Object) -> Release:
    metadata = operator.get("metadata", {})
    labels = metadata.get("labels") or {}
    fullname = str(metadata.get("name", "")).removesuffix("-operator")
    return Release(
        str(labels.get(INSTANCE, fullname)),
        str(metadata.get("namespace", "")),
        fullname,
        str(labels.get(VERSION, "")),
    )
