"""A batch's executions as columns of numbers: who, what, below what, with which words.

Responsible for reading a `Frame`; how surprising what it reads is, is `daemoneye_analytics.behaviour.features`' affair. Texts are asked once for each
distinct one, everything else is whole columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Final, Self

import numpy as np

from daemoneye.escape import decode
from daemoneye.events.ancestry import identity_rows
from daemoneye.events.flags import Flag
from daemoneye_analytics.behaviour import signs
from daemoneye_analytics.behaviour.intent import HIDDEN, intent
from daemoneye_analytics.behaviour.tokens import words
from daemoneye_analytics.frame import Frame, combine, text_hash

LEVELS: Final = 5
"""Contexts of an execution: the workload with its image, the workload, the image, the namespace, the fleet."""
FLEET: Final = text_hash("fleet")
_SPOKEN: Final = 0x5EED
_DAY_NS: Final = 86_400_000_000_000
_SYSTEM: Final = re.compile(r"/(usr/)?(s?bin|lib\w*|libexec|local/s?bin)/")
_SHARED: Final = re.compile(r"/(tmp|dev/shm|var/tmp|run/user/\d+|run/lock)/")
_HOME: Final = re.compile(r"/(home/|root/)")
_SHARED_CLASS: Final = 3.0
_ODD: Final = Flag.EXE_DELETED | Flag.MEMFD | Flag.WRITABLE_LAYER
_ODDS: Final = combine(np.arange(signs.WIDTH)) | np.uint64(1)
_GAIN: Final = Flag.SETUID | Flag.SETGID | Flag.CAPS_GAINED


@dataclass(frozen=True, slots=True)
class Executions:
    """n executions in order of time; arrays of shape (n,) where nothing else is said.

    Attributes:
        row: Row in the frame's executions.
        time: Wall time, ns, int64.
        sequence: Place in the node's lane, u64.
        process: Process key, u64.
        pid: Process id, u32.
        start: Start of the process, wall time, ns, int64.
        workload: Hash of the workload with its image, u64.
        identity: Row in the frame's identities, int64.
        levels: Hashes of the contexts, u64, shape (n, LEVELS); 0 for one that there is not.
        exe: Hash of the executable, u64; 0 where it was lost.
        parent: That of the parent.
        grandparent: That of the parent's parent.
        user: Real and effective user as one number, u64, never 0.
        words: Hashes of words of the arguments, u64, shape (n, WORDS).
        signs: Numbers of the signs of an intrusion that it shows, u64, shape (n, signs.WIDTH), 0 where there are no more.
        shape: Features that need no counts, in the order of `SHAPE`, float64, shape (n, len(SHAPE)).
        tree: Process keys of itself and its ancestors, u64, shape (n, 9), 0 where they are unknown.
    """

    row: np.ndarray
    time: np.ndarray
    sequence: np.ndarray
    process: np.ndarray
    pid: np.ndarray
    start: np.ndarray
    workload: np.ndarray
    identity: np.ndarray
    levels: np.ndarray
    exe: np.ndarray
    parent: np.ndarray
    grandparent: np.ndarray
    user: np.ndarray
    words: np.ndarray
    signs: np.ndarray
    shape: np.ndarray
    tree: np.ndarray

    SHAPE: ClassVar[tuple[str, ...]] = (
        "argc", "args_length", "args_entropy", "path_depth", "path_class", "user_change", "privilege_gain", "odd_file", "terminal", "ancestors",
        "intent", "hour_sin", "hour_cos",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: np.ndarray) -> Self:
        """Some of them: int array, slice or mask."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several one after another."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @property
    def signature(self) -> np.ndarray:
        """What two executions have in common that are the same for the counts, u64, shape (n,)."""
        return combine(
            self.workload, self.exe, self.parent, self.grandparent, self.user, self.signs @ _ODDS, *self.words.T
        )

    @property
    def program(self) -> np.ndarray:
        """Executable and parent's, u64: what a window counts as one process however often it ran."""
        return combine(self.exe, self.parent)


def executions(frame: Frame, excluded: np.ndarray) -> Executions:
    """The executions of a frame that were seen as they happened, without those of excluded workloads.

    Args:
        frame: The batch.
        excluded: Which of `frame.identities` are left out, bool.
    """
    kept = np.flatnonzero(~frame.has(Flag.SNAPSHOT) & ~excluded[frame.identity[frame.exec_image]])
    image = frame.exec_image[kept]
    rows = frame.images.section.rows
    own = rows[image]
    ancestors = frame.ancestors[image]
    exe = frame.exe.hashes()
    time = frame.batch.wall_ns(own["time"])
    user = _users(own)
    parent_row = ancestors[:, 0]
    begin, length = (column[image] for column in frame.images.section.column("argv"))
    spoken, entropy, parts = words(frame.images.section.heap, begin, length)
    levels = _levels(frame, image, own)
    day = (time % _DAY_NS) * (2 * np.pi / _DAY_NS)
    depth, kind = _paths(frame)
    code = frame.exe.codes[image]
    flags = own["flags"]
    hidden = (kind[code] == _SHARED_CLASS) | ((flags & np.uint32(_ODD)) != 0)
    programs = [signs.program(path) for path in frame.exe.values]
    hashes, shells = np.array([h for h, _ in programs], np.uint64), np.array([shell for _, shell in programs], bool)
    piped = shells[code] & (own["argc"] == 1) & (own["tty"] == 0)
    shape = np.column_stack((
        np.log2(1.0 + own["argc"]), np.log2(1.0 + own["argv_length"]), entropy, depth[code],
        np.where(flags & np.uint32(Flag.MEMFD), 4.0, kind[code]),
        (parent_row >= 0) & (user != _users(rows[parent_row])) if len(rows) else np.zeros(0),
        (flags & np.uint32(_GAIN)) != 0, (flags & np.uint32(_ODD)) != 0, own["tty"] != 0, (ancestors >= 0).sum(axis=1),
        np.where(hidden, HIDDEN, intent(frame.exe.values)[code]), np.sin(day), np.cos(day),
    )).astype(np.float64)  # fmt: skip
    return Executions(
        row=kept, time=time, sequence=frame.exec_sequence[kept], process=own["process_uid"], pid=own["pid"],
        start=frame.batch.wall_ns(own["start_time"]), workload=np.where(levels[:, 0] != 0, levels[:, 0], levels[:, 1]), identity=frame.identity[image],
        levels=levels, exe=exe[image], parent=_at(exe, ancestors[:, 0]), grandparent=_at(exe, ancestors[:, 1]), user=user, words=spoken,
        signs=signs.find(parts, hashes[code], hidden, piped), shape=shape,
        tree=np.column_stack((own["process_uid"], *(_at(rows["process_uid"], ancestors[:, level]) for level in range(ancestors.shape[1])))),
    )  # fmt: skip


def _users(rows: np.ndarray) -> np.ndarray:
    return combine((rows["uid"].astype(np.uint64) << np.uint64(32)) | rows["euid"], _SPOKEN)


def _at(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, column[rows], np.uint64(0)) if len(column) else np.zeros(len(rows), np.uint64)


def _levels(frame: Frame, image: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Contexts of each execution; see `Executions.levels`."""
    workload = frame.workload_hashes[frame.identity[image]]
    pod = identity_rows(frame.batch, own, "pod_identity")
    section = frame.batch.section("pod_identity", context=True)
    names = (
        {"image": [], "namespace": []} if section is None else {n: section.values(n) for n in ("image", "namespace")}
    )
    held = {
        name: np.array([*(text_hash(decode(v)) for v in values), 0], np.uint64)[pod] for name, values in names.items()
    }
    image_hash, namespace = held["image"], held["namespace"]
    return np.column_stack((
        np.where((image_hash != 0) & (workload != 0), combine(workload, image_hash, 1), np.uint64(0)),
        np.where(workload != 0, combine(workload, 2), np.uint64(0)),
        np.where(image_hash != 0, combine(image_hash, 3), np.uint64(0)),
        np.where(namespace != 0, combine(namespace, 4), np.uint64(0)),
        np.full(len(image), FLEET, np.uint64),
    ))  # fmt: skip


def _paths(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Depth and class of each distinct executable's path, float64."""
    paths = frame.exe.values
    return (
        np.array([float(path.count("/")) for path in paths]),
        np.array([
            _SHARED_CLASS if _SHARED.match(path) else 2.0 if _HOME.match(path) else 0.0 if _SYSTEM.match(path) else 1.0 for path in paths
        ]),
    )  # fmt: skip
