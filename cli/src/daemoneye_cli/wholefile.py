"""A file that is written whole or not at all, for its owner alone, and never in the place of another."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Protocol

from daemoneye.errors import ConfigError, DaemonEyeError


class Source(Protocol):
    """Where bytes come from."""

    def read(self, amount: int = ..., /) -> bytes:
        """Up to so many of them; empty at the end."""


def write(path: Path, source: Source, wanted: int) -> int:
    """Write what a source gives, which has to be `wanted` bytes; its size.

    Raises:
        ConfigError: It cannot be written, or is there already.
        DaemonEyeError: The source ended early.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"-o {path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(source, file)
            size = file.tell()
        if size != wanted:
            raise DaemonEyeError(f"the file ended after {size} of {wanted} bytes: try again")
        # Not in the place of a file that somebody made meanwhile.
        os.link(temporary, path)
    except FileExistsError:
        raise ConfigError(f"-o {path}: it exists already") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return size
