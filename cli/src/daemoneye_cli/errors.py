"""What a cluster may answer, told apart by what the command line can do about it.

Responsible for the classes alone; :mod:`daemoneye_cli.kube` finds out which one it is.
"""

from __future__ import annotations

from daemoneye.errors import MachineError


class NoSuchKind(MachineError):  # noqa: N818 - it says what the cluster lacks; the tree says that it is an error
    """The API server does not know the kind: its CRD is missing."""


class NotThere(MachineError):  # noqa: N818 - as above
    """There is no object of that name."""


class Forbidden(MachineError):  # noqa: N818 - as above
    """Whoever asks may not know; what can be shown without it still can."""
