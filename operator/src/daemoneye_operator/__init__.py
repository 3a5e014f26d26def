"""The Kubernetes operator of DaemonEye, and the other processes of its image."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """Version of this distribution; empty where it is not installed."""
    try:
        return importlib.metadata.version("daemoneye-operator")
    except importlib.metadata.PackageNotFoundError:
        return ""
