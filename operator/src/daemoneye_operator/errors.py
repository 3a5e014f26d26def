"""The operator's errors, beside those that all processes share (:mod:`daemoneye.errors`).

::

    DaemonEyeError
    └── ApiError      the API server refused a request, or did not answer: ``status`` says which, ``transient`` whether to try again
"""

from __future__ import annotations

from daemoneye.errors import DaemonEyeError


class ApiError(DaemonEyeError):
    """A request to the API server failed; `status` is HTTP's, 0 without an answer; `reason` Kubernetes' word (``Forbidden``)."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later: no answer, too many requests, a conflict, a server's own trouble."""
        return self.status in (0, 408, 409, 429) or self.status >= 500
