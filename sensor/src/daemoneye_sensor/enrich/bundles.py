"""Names of containers, from the bundles of the container runtime.

Responsible for reading `config.json` of a container's bundle and for the runtimes' annotations in it; not for pods' labels and owners,
which only Kubernetes knows. It reads and never writes, follows no symbolic link, and takes what cannot be read for not known: a bundle
goes with its container.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_BYTES: Final = 4 << 20
SANDBOX: Final = "POD"
"""Name of a pod's sandbox (its pause container), as the kubelet and CRI-O write it: it is no container of the pod's spec."""
_KEPT: Final = 8192
_AGAIN_S: Final = 10.0
_TEXT: Final = 512
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_CRI: Final = "io.kubernetes.cri."
_CRIO: Final = "io.kubernetes.cri-o."


@dataclass(frozen=True, slots=True)
class Names:
    """What a bundle says of its container; empty where it does not."""

    namespace: str
    pod: str
    container: str
    image: str
    runtime: str


class Bundles:
    """Bundles below the runtime's task directory: containerd's `k8s.io/<container>/`, or CRI-O's `<container>/userdata/`."""

    def __init__(self, tasks: Path | None) -> None:
        self._tasks = tasks
        self._names: dict[str, Names] = {}
        self._absent: dict[str, float] = {}  # when to look again

    @property
    def readable(self) -> bool:
        """Whether there is a directory to look in at all."""
        return self._tasks is not None

    def names(self, container: str) -> Names | None:
        """Names of a container by its id, 64 hexadecimal digits; None while they are not known."""
        if (names := self._names.get(container)) is not None or self._tasks is None:
            return names
        now = time.monotonic()
        if now < self._absent.get(container, 0.0):
            return None
        names = self._look(self._tasks, container)
        if names is None:
            _bound(self._absent)
            self._absent[container] = now + _AGAIN_S
        else:
            self._absent.pop(container, None)
            _bound(self._names)
            self._names[container] = names
        return names

    def _look(self, tasks: Path, container: str) -> Names | None:
        for folders in (("k8s.io", container), (container, "userdata")):
            data = _read(tasks, folders, "config.json")
            if data is not None and (names := parse(data)) is not None:
                return names
        return None


def parse(data: bytes) -> Names | None:
    """Names from a bundle's `config.json`; None when it is none, or of no Kubernetes container."""
    try:
        annotations = json.loads(data)["annotations"]
        read = _cri_o(annotations) if f"{_CRIO}ContainerType" in annotations else _containerd(annotations)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return read if read.namespace and read.pod else None


def _containerd(annotations: Mapping[str, Any]) -> Names:
    sandbox = annotations.get(f"{_CRI}container-type") == "sandbox"
    return Names(
        namespace=_text(annotations, f"{_CRI}sandbox-namespace"),
        pod=_text(annotations, f"{_CRI}sandbox-name"),
        container=SANDBOX if sandbox else _text(annotations, f"{_CRI}container-name"),
        image=_text(annotations, f"{_CRI}image-name"),
        runtime="containerd",
    )


def _cri_o(annotations: Mapping[str, Any]) -> Names:
    sandbox = annotations.get(f"{_CRIO}ContainerType") == "sandbox"
    return Names(
        namespace=_text(annotations, "io.kubernetes.pod.namespace"),
        pod=_text(annotations, "io.kubernetes.pod.name"),
        container=SANDBOX if sandbox else _text(annotations, "io.kubernetes.container.name"),
        image=_text(annotations, f"{_CRIO}ImageName") or _text(annotations, f"{_CRIO}Image"),
        runtime="cri-o",
    )


def _text(annotations: Mapping[str, Any], name: str) -> str:
    value = annotations.get(name, "")
    return value[:_TEXT] if isinstance(value, str) else ""


def _read(tasks: Path, folders: tuple[str, ...], name: str) -> bytes | None:
    """A regular file of at most MAX_BYTES, reached step by step so that no step is a link."""
    opened: list[int] = []
    try:
        opened.append(os.open(tasks, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        for folder in folders:
            opened.append(os.open(folder, _FOLDER, dir_fd=opened[-1]))
        file = os.open(name, _FILE, dir_fd=opened[-1])
        opened.append(file)
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            return None
        return os.read(file, MAX_BYTES)
    except OSError:
        return None
    finally:
        for fd in opened:
            os.close(fd)


def _bound(table: dict[str, Any]) -> None:
    while len(table) >= _KEPT:
        del table[next(iter(table))]
