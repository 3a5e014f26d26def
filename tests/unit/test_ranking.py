"""The arithmetic of `make bench-analytics`, on figures that one can check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.bench.judged import Labels
from tests.bench.ranking import auroc, average_precision, recall, threshold
from tests.corpus.corpus import Rare

SOUGHT = np.array([True, False, True, False, False])


def test_areas_of_a_ranking():
    score = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert auroc(SOUGHT, score) == pytest.approx(5 / 6)  # of six pairs one is the wrong way round
    assert average_precision(SOUGHT, score) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert auroc(SOUGHT, -score) == pytest.approx(1 / 6)


def test_ties_favour_nobody():
    score = np.zeros(5)
    assert auroc(SOUGHT, score) == 0.5
    assert average_precision(SOUGHT, score) == pytest.approx(2 / 5)  # all come in at once
    assert recall(score[SOUGHT], score[~SOUGHT], 0.5) == 0.0


def test_areas_without_one_kind_are_unknown():
    assert math.isnan(auroc(np.zeros(3, bool), np.arange(3.0)))
    assert math.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))
    assert math.isnan(recall(np.zeros(0), np.arange(3.0), 0.1))


@pytest.mark.parametrize(("share", "expected"), [(0.001, 0.5), (0.01, 0.75), (1.0, 1.0)])
def test_recall_at_a_share_of_false_alarms(share: float, expected: float):
    usual = np.arange(100.0)  # one in a hundred may lie above
    sought = np.array([200.0, 99.5, 99.0, -1.0])
    assert recall(sought, usual, share) == expected
    assert (usual > threshold(usual, share)).mean() <= share


def test_what_happened_is_found_by_workload_and_time():
    labels = Labels([Rare("a", 10, 20, 3, "deploy"), Rare("b", 10, 20, 3, "deploy"), Rare("a", 30, 40, 3, "repair")])
    assert labels.inside("a", np.array([5, 20, 25])) == [0]
    assert labels.inside("a", np.array([15, 35])) == [0, 2]
    assert labels.inside("a", np.array([25])) == labels.inside("c", np.array([15])) == []
    assert labels.mask(["a", "b", "a", "c"], np.array([10, 9, 40, 15])).tolist() == [True, False, True, False]
