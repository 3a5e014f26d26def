"""Programs by the names of their executables."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

SHELLS: Final = (
    "sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "ksh93", "mksh", "lksh", "fish", "csh", "tcsh", "busybox",
)  # fmt: skip
_DISTINCT: Final = 65_536


def named(names: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path's last component is one of some names, in which `*` stands for any characters; answers are remembered."""
    pattern = re.compile("|".join(fnmatch.translate(name) for name in names))

    @lru_cache(maxsize=_DISTINCT)
    def is_named(path: str) -> bool:
        return pattern.match(path.removesuffix(" (deleted)").rpartition("/")[2]) is not None

    return is_named
