"""The errors that DaemonEye's processes share, told apart by what the caller can do about them.

Responsible for the tree and the exit status that each branch stands for; not for printing them
(the command line does) nor for logging.

::

    DaemonEyeError            exit 1   something went wrong that has no better name
    ├── ConfigError           exit 2   the user wrote something wrong: say where, let them correct it
    ├── MachineError          exit 3   this machine lacks something: ``fix`` says what to do
    └── CorruptData           exit 1   bytes that are not what they claim: ``where`` and ``offset`` say which
        └── UnknownSchema     exit 1   rows of schemas that the reader was not given: ``schemas`` says which to look for
"""

from __future__ import annotations

from typing import ClassVar


class DaemonEyeError(Exception):
    """Root of every error that DaemonEye raises on purpose; its text is one sentence for a person."""

    exit_code: ClassVar[int] = 1


class ConfigError(DaemonEyeError):
    """Wrong usage or configuration; the text names the file, line and key where there is one."""

    exit_code: ClassVar[int] = 2


class MachineError(DaemonEyeError):
    """This machine lacks something (a privilege, a binary, room on a disk).

    ``fix`` is one sentence, or one command to paste, that puts it right; empty when nobody knows one.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} (fix: {self.fix})" if self.fix else message


class CorruptData(DaemonEyeError):  # noqa: N818 - it names what the bytes are; the tree says that it is an error
    """Bytes that are cut short, changed or not of our format.

    ``where`` names the source (a path, a message), ``offset`` is the byte in it at which reading stopped making
    sense; None when the source has no offsets.
    """

    def __init__(self, message: str, *, where: str = "", offset: int | None = None) -> None:
        super().__init__(message)
        self.where = where
        self.offset = offset

    def __str__(self) -> str:
        place = self.where if self.offset is None else f"{self.where} at byte {self.offset}".lstrip()
        message = super().__str__()
        return f"{place}: {message}" if place else message


class UnknownSchema(CorruptData):
    """Rows of schemas that the reader does not know; with them it can be tried again."""

    def __init__(self, message: str, schemas: tuple[str, ...]) -> None:
        super().__init__(message)
        self.schemas = schemas
