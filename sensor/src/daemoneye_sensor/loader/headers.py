"""Kernel headers for BCC. The programs read no kernel struct, so that headers of another version serve as well; only BCC itself needs some.

Standard library only: it runs in the compile child.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
from pathlib import Path

_ARCH = {"x86_64": "x86", "aarch64": "arm64"}


class HeadersError(Exception):
    """No kernel headers on this machine."""


def prepare(
    modules: Path = Path("/lib/modules"), sources: Path = Path("/usr/src")
) -> tempfile.TemporaryDirectory[str] | None:
    """Make BCC find headers: set BCC_KERNEL_SOURCE where the running kernel's own are absent.

    Returns:
        A directory to keep until the compilation is done, where one was made.

    Raises:
        HeadersError: There are none; the message says what to install.
    """
    if chosen := os.environ.get("BCC_KERNEL_SOURCE"):
        if Path(chosen).is_dir():
            return None
        raise HeadersError(f"BCC_KERNEL_SOURCE names {chosen}, which is no directory")
    if (modules / platform.release() / "build").is_dir():
        return None
    found = sorted(sources.glob("linux-headers-*"), key=_version, reverse=True)
    for tree in found:
        if not (tree / "include/generated/autoconf.h").is_file():
            continue
        common = next((c for c in (tree.with_name(re.sub(r"-[a-z0-9]+$", "-common", tree.name)),) if c.is_dir()), None)
        if common is None:
            os.environ["BCC_KERNEL_SOURCE"] = str(tree)
            return None
        merged = tempfile.TemporaryDirectory(prefix="daemoneye-headers-")
        _merge(common, tree, Path(merged.name))
        os.environ["BCC_KERNEL_SOURCE"] = merged.name
        return merged
    raise HeadersError(f"no kernel headers: neither {modules}/{platform.release()}/build nor {sources}/linux-headers-*")


def _version(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", path.name)]


def _merge(common: Path, generated: Path, target: Path) -> None:
    """One tree of links from Debian's two packages: common headers, and those generated for one flavour."""
    arch = f"arch/{_ARCH.get(platform.machine(), platform.machine())}"
    for part in ("include", arch, f"{arch}/include"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for tree in (generated, common):
            for entry in (tree / part).iterdir() if (tree / part).is_dir() else ():
                link = target / part / entry.name
                if str(link.relative_to(target)) not in {"include", arch, f"{arch}/include"} and not link.exists():
                    link.symlink_to(entry)
