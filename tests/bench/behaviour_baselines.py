"""What simpler analysers say of the same windows: one IForest for all, one a workload, and the bare allow-list.

Responsible for their scores; all are held against each other by rank alone, since none of them says what a score means. The forests see how often each
program ran in a window, hashed into columns, and are fitted on the beginning in which there was no attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pyod.models.iforest import IForest

from daemoneye.errors import ConfigError
from daemoneye_analytics.detectors.first_seen import FirstSeen
from tests.bench.judged import Judged, Labels, Told, Window, frames

_COLUMNS: Final = 64
_FEWEST: Final = 20
"""Windows without which a workload has no forest of its own; its windows are then all usual."""


def global_forest(judged: Judged) -> np.ndarray:
    """Scores of one forest over all workloads, float64, one a window; larger is more unusual."""
    return _forest(histogram(judged.earlier)).decision_function(histogram(judged.windows))


def own_forests(judged: Judged) -> np.ndarray:
    """Scores of a forest for each workload, by rank among its own windows: -log10 of the share that is at least as unusual."""
    out = np.zeros(len(judged.windows))
    for workload in judged.recording.workloads:
        known = histogram([window for window in judged.earlier if window.workload == workload])
        mine = [at for at, window in enumerate(judged.windows) if window.workload == workload]
        if len(known) < _FEWEST or not mine:
            continue
        forest = _forest(known)
        usual, score = (
            np.sort(forest.decision_scores_),
            forest.decision_function(histogram([judged.windows[at] for at in mine])),
        )
        above = len(usual) - np.searchsorted(usual, score)
        # Beyond all that was seen, the score itself parts one from the other.
        out[mine] = -np.log10((above + 1) / (len(usual) + 1)) + 1e-3 * (score - usual[0])
    return out


def new_items(judged: Judged) -> np.ndarray:
    """How many programs and pairs of program and parent each window holds that no window of its workload had before, float64."""
    seen: dict[str, set[int]] = {}
    counts = []
    for window in (*judged.earlier, *judged.windows):
        # No executable is a pair: both are hashes of 64 bits.
        items = {*window.exe.tolist(), *window.pair.tolist()}
        known = seen.setdefault(window.workload, set())
        counts.append(len(items - known))
        known |= items
    return np.array(counts[len(judged.earlier) :], float)


def first_seen(judged: Judged) -> tuple[list[list[int]], list[list[int]]]:
    """Attacks and rare benign events in each finding of the shipped detector first_seen from the first attack on."""
    begun = min(attack.begin_ns for attack in judged.recording.attacks)
    detector = FirstSeen(FirstSeen.declaration.resolve({}))
    told: list[Told] = []
    for frame in frames(judged.recording):
        when = dict(zip(frame.exec_sequence.tolist(), frame.exec_time.tolist(), strict=True))
        for finding in detector.process(frame):
            at = when[finding.events[0].sequence]
            if at >= begun:
                told.append(Told(finding.subject.workload, at, np.array([at])))
    attacks, rare = Labels(judged.recording.attacks), Labels(judged.recording.rare)
    return ([attacks.inside(f.workload, f.times) for f in told], [rare.inside(f.workload, f.times) for f in told])


def histogram(windows: Sequence[Window]) -> np.ndarray:
    """How often each program ran, log2(1 + n), float64, shape (w, 64): programs whose hashes agree in six bits share a column."""
    out = np.zeros((len(windows), _COLUMNS))
    for at, window in enumerate(windows):
        out[at] = np.bincount((window.exe % np.uint64(_COLUMNS)).astype(np.int64), minlength=_COLUMNS)
    return np.log2(1 + out)


def _forest(rows: np.ndarray) -> IForest:
    if not len(rows):
        raise ConfigError("no window before the first attack: there is nothing to fit a forest on")
    return IForest(n_estimators=100, random_state=1, n_jobs=1).fit(rows)
