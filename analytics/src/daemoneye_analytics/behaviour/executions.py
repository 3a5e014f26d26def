"""A batch's executions as columns of numbers: who, what, below what, with which words.

Responsible for reading a `Frame`; how surprising what it reads is, is `daemoneye_analytics.behaviour.features`' affair. Texts are asked once for each
distinct one, everything else is whole columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import pyarrow as pa

from daemoneye.escape import decode
from daemoneye.events.ancestry import identity_rows
from daemoneye.events.flags import Flag
from daemoneye.events.sets import groups
from daemoneye_analytics.behaviour import signs
from daemoneye_analytics.behaviour.columns import Columns
from daemoneye_analytics.behaviour.intent import HIDDEN, intent
from daemoneye_analytics.behaviour.tokens import WORDS, Parts, words
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
_ODDS: Final = combine(np.arange(5 + signs.WIDTH + WORDS)) | np.uint64(1)
_GAIN: Final = Flag.SETUID | Flag.SETGID | Flag.CAPS_GAINED


@dataclass(frozen=True, slots=True)
class Executions(Columns):
    """n executions in order of time, as windows keep them; arrays of shape (n,) where nothing else is said.

    Attributes:
        time: Wall time, ns, int64.
        sequence: Place in the node's lane, u64.
        process: Process key, u64.
        pid: Process id, u32.
        start: Start of the process, wall time, ns, int64.
        workload: Hash of the workload with its image, u64.
        levels: Hashes of the contexts, u64, shape (n, LEVELS); 0 for one that there is not.
        exe: Hash of the executable, u64; 0 where it was lost.
        parent: That of the parent.
        grandparent: That of the parent's parent.
        user: Real and effective user as one number, u64, never 0.
        words: Hashes of words of the arguments, u64, shape (n, WORDS).
        signs: Numbers of the signs of an intrusion that it shows, u64, shape (n, signs.WIDTH), 0 where there are no more.
        tree: Process keys of itself and its ancestors, u64, shape (n, 9), 0 where they are unknown.
    """

    time: np.ndarray
    sequence: np.ndarray
    process: np.ndarray
    pid: np.ndarray
    start: np.ndarray
    workload: np.ndarray
    levels: np.ndarray
    exe: np.ndarray
    parent: np.ndarray
    grandparent: np.ndarray
    user: np.ndarray
    words: np.ndarray
    signs: np.ndarray
    tree: np.ndarray

    @property
    def signature(self) -> np.ndarray:
        """What two executions have in common that are the same for the counts, u64, shape (n,): hashes, so that their weighted sum is one."""
        who = (self.workload, self.exe, self.parent, self.grandparent, self.user)
        return np.asarray(np.column_stack((*who, self.signs, self.words)) @ _ODDS)

    @property
    def context(self) -> np.ndarray:
        """What two executions have in common that are in the same contexts, u64, shape (n,)."""
        return np.asarray(self.levels @ _ODDS[:LEVELS])

    @property
    def program(self) -> np.ndarray:
        """Executable and parent's, u64: what a window counts as one process however often it ran."""
        return combine(self.exe, self.parent)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """n executions with what is asked of them only as they come.

    Attributes:
        executions: What is kept of them.
        row: Row in the frame's executions.
        identity: Row in the frame's identities, int64.
        shape: Features that need no counts, in the order of `SHAPE`, float64, shape (n, len(SHAPE)).
    """

    executions: Executions
    row: np.ndarray
    identity: np.ndarray
    shape: np.ndarray

    SHAPE: ClassVar[tuple[str, ...]] = (
        "argc", "args_length", "args_entropy", "path_depth", "path_class", "user_change", "privilege_gain", "odd_file", "terminal", "ancestors",
        "intent", "hour_sin", "hour_cos",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.row)

    @property
    def time(self) -> np.ndarray:
        """Wall time, ns, int64."""
        return self.executions.time

    @property
    def workload(self) -> np.ndarray:
        """Hash of the workload with its image, u64."""
        return self.executions.workload

    def cgroup(self, frame: Frame, at: int) -> tuple[int, int]:
        """Both ids of an execution's cgroup."""
        row = frame.images.section.rows[frame.exec_image[int(self.row[at])]]
        return int(row["cgroup_id"]), int(row["cgroup_v1_id"])

    def span(self, first: int, last: int) -> Self:
        """Those from `first` to before `last`, not copied."""
        here = slice(first, last)
        return type(self)(self.executions.span(first, last), self.row[here], self.identity[here], self.shape[here])


def executions(frame: Frame, excluded: np.ndarray) -> Arrivals:
    """The executions of a frame that were seen as they happened, without those of excluded workloads.

    Args:
        frame: The batch.
        excluded: Which of `frame.identities` are left out, bool.
    """
    kept = np.flatnonzero(~frame.has(Flag.SNAPSHOT) & ~excluded[frame.identity[frame.exec_image]])
    image = frame.exec_image[kept]
    rows = frame.images.section.rows
    own = rows.take(image)
    ancestors = frame.ancestors[image]
    exe = _padded(frame.exe.hashes())
    time = frame.batch.wall_ns(own["time"])
    user = _users(own["uid"], own["euid"])
    line, (spoken, entropy, parts) = _lines(frame, image)
    paths = _paths(frame)
    levels = contexts(frame, frame.identity[image], own)
    process = own["process_uid"]
    tree = np.empty((len(kept), 1 + ancestors.shape[1]), np.uint64)
    tree[:, 0], tree[:, 1:] = process, _padded(rows["process_uid"]).take(ancestors)
    return Arrivals(
        Executions(
            time=time, sequence=frame.exec_sequence[kept], process=process, pid=own["pid"], start=frame.batch.wall_ns(own["start_time"]),
            workload=whose(levels), levels=levels, exe=exe[image], parent=exe[ancestors[:, 0]],
            grandparent=exe[ancestors[:, 1]], user=user, words=spoken.take(line, axis=0),
            signs=_signs(frame, image, own, paths[1], line, parts), tree=tree,
        ),
        row=kept, identity=frame.identity[image], shape=_shape(frame, image, own, ancestors, user, entropy.take(line), time, paths),
    )  # fmt: skip


def _lines(frame: Frame, image: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, Parts]]:
    """The command line of each image as a number, and what `words` says of each: two of three are in a batch several times and are read once."""
    offsets, heap = frame.images.section.bytes_column("argv")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(heap))]
    lines = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers).dictionary_encode()
    code = lines.indices.to_numpy()
    which = np.empty(len(lines.dictionary), np.int64)
    which[code] = np.arange(len(code))
    return code[image], words(heap, offsets[which], np.diff(offsets)[which])


def _signs(
    frame: Frame, image: np.ndarray, own: np.ndarray, kind: np.ndarray, line: np.ndarray, parts: Parts
) -> np.ndarray:
    """See `Executions.signs`; looked up once for what is the same to them."""
    programs = [signs.program(path) for path in frame.exe.values]
    hashes, shells = np.array([h for h, _ in programs], np.uint64), np.array([shell for _, shell in programs], bool)
    code = frame.exe.codes[image]
    hidden = _hidden(kind[code], own["flags"])
    piped = shells[code] & (own["argc"] == 1) & (own["tty"] == 0)
    first, inverse = groups(((line * np.int64(len(programs)) + code) * 2 + hidden) * 2 + piped)
    found = signs.find(parts.of(line[first]), hashes[code[first]], hidden[first], piped[first])
    return found.take(inverse, axis=0)


def _shape(
    frame: Frame,
    image: np.ndarray,
    own: np.ndarray,
    ancestors: np.ndarray,
    user: np.ndarray,
    entropy: np.ndarray,
    time: np.ndarray,
    paths: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """See `Arrivals.shape`; `own` are the rows of `image`."""
    rows = frame.images.section.rows
    users = _padded(_users(rows["uid"], rows["euid"]))
    depth, kind = paths
    code = frame.exe.codes[image]
    flags = own["flags"]
    odd = (flags & np.uint32(_ODD)) != 0
    day = (time % _DAY_NS) * (2 * np.pi / _DAY_NS)
    columns = (
        np.log2(1.0 + own["argc"]), np.log2(1.0 + own["argv_length"]), entropy, depth[code], np.where(flags & np.uint32(Flag.MEMFD), 4.0, kind[code]),
        (ancestors[:, 0] >= 0) & (user != users[ancestors[:, 0]]), (flags & np.uint32(_GAIN)) != 0, odd, own["tty"] != 0,
        np.count_nonzero(ancestors >= 0, axis=1), np.where(_hidden(kind[code], flags), HIDDEN, intent(frame.exe.values)[code]), np.sin(day), np.cos(day),
    )  # fmt: skip
    out = np.empty((len(image), len(columns)))
    for at, column in enumerate(columns):
        out[:, at] = column
    return out


def _hidden(kind: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Which programs come from where none belongs, bool, by the class of their path and their flags."""
    return np.asarray((kind == _SHARED_CLASS) | ((flags & np.uint32(_ODD)) != 0))


def _padded(column: np.ndarray) -> np.ndarray:
    """A column of all images with a 0 at its end, which is what row -1 finds."""
    return np.append(column, column.dtype.type(0))


def _users(uid: np.ndarray, euid: np.ndarray) -> np.ndarray:
    return combine((uid.astype(np.uint64) << np.uint64(32)) | euid, _SPOKEN)


def contexts(frame: Frame, identity: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Contexts of each of n rows of a cgroup, whose identities in the frame are given; see `Executions.levels`."""
    workload = frame.workload_hashes[identity]
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
        np.full(len(own), FLEET, np.uint64),
    ))  # fmt: skip


def whose(levels: np.ndarray) -> np.ndarray:
    """Hash of the workload of each of n rows with its image where that is known, u64; 0 where nothing is."""
    return np.where(levels[:, 0] != 0, levels[:, 0], levels[:, 1])


def _paths(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Depth and class of each distinct executable's path, float64."""
    paths = frame.exe.values
    return (
        np.array([float(path.count("/")) for path in paths]),
        np.array([
            _SHARED_CLASS if _SHARED.match(path) else 2.0 if _HOME.match(path) else 0.0 if _SYSTEM.match(path) else 1.0 for path in paths
        ]),
    )  # fmt: skip
