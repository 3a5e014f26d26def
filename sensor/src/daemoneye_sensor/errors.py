"""The sensor's own errors, beside those that all processes share (:mod:`daemoneye.errors`)."""

from __future__ import annotations

from typing import Final

from daemoneye.errors import MachineError

MISSING_FEATURE: Final = "MissingKernelFeature"
BAD_PROGRAM: Final = "BadProgram"


class ProgramError(MachineError):
    """The kernel programs cannot run here; ``reason`` is one of the above or the compile child's, as a policy's status names it (`daemoneye.conditions`)."""

    def __init__(self, message: str, *, fix: str = "", reason: str = BAD_PROGRAM) -> None:
        super().__init__(message, fix=fix)
        self.reason = reason
