"""The pyod detectors that a model may use: names, parameters, and why others may not be used.

Responsible for the catalogue and for fitting one; pyod (200 MB of memory) is imported when the first is fitted. A detector is allowed if its score of a row
is the same to the last bit whatever rows stand beside it, which a test proves of each, and if it can be stored without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import inf
from typing import Any, Final

import numpy as np

from daemoneye.errors import ConfigError

DIRTY: Final = "it follows attacks that happened while it learned (AUROC .67 to .84 instead of .86 to .97 with 4.5 % of them); HBOS and IForest hardly do"


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter: a number of the type of `default` strictly between `above` and `below`, or one of `choices`."""

    name: str
    default: int | float | str
    above: float = 0
    below: float = inf
    choices: tuple[str, ...] = ()

    def parse(self, value: object, where: str) -> int | float | str:
        """The value.

        Raises:
            ConfigError: It does not fit.
        """
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"{where}: {self.name} is {value!r}, not one of {', '.join(self.choices)}")
            return str(value)
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ConfigError(f"{where}: {self.name} is {value!r}, not a{' whole' if whole else ''} number")
        if not self.above < value < self.below:
            raise ConfigError(f"{where}: {self.name} is {value}, not between {self.above:g} and {self.below:g}")
        return value if whole else float(value)


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector of pyod.

    Attributes:
        module: Where its class of the same name is.
        settings: What users may set.
        fixed: What they may not.
        seeded: It takes chance, from a seed.
        types: Full names of the classes that a stored one consists of, beside those that hold numbers and text.
        caution: What speaks against it; empty if nothing does.
    """

    module: str
    settings: tuple[Setting, ...]
    types: frozenset[str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = False
    caution: str = ""


_TREE: Final = frozenset({"sklearn.neighbors._ball_tree.BallTree", "sklearn.metrics._dist_metrics.EuclideanDistance64"})
KINDS: Final[Mapping[str, Kind]] = {
    "HBOS": Kind(
        "pyod.models.hbos",
        (Setting("n_bins", 10, 1, 257), Setting("alpha", 0.1, 0, 1), Setting("tol", 0.5, 0, 1)),
        frozenset({"pyod.models.hbos.HBOS"}),
    ),
    "IForest": Kind(
        "pyod.models.iforest",
        (Setting("n_estimators", 100, 9, 201), Setting("max_samples", 256, 15, 501)),
        frozenset(
            {
                "pyod.models.iforest.IForest",
                "sklearn.ensemble._iforest.IsolationForest",
                "sklearn.tree._classes.ExtraTreeRegressor",
                "sklearn.tree._tree.Tree",
            }
        ),
        fixed={"n_jobs": 1},
        seeded=True,
    ),
    "KNN": Kind(
        "pyod.models.knn",
        (Setting("n_neighbors", 5, 0, 101), Setting("method", "largest", choices=("largest", "mean", "median"))),
        frozenset({"pyod.models.knn.KNN", "sklearn.neighbors._unsupervised.NearestNeighbors"}) | _TREE,
        # A tree whatever the number of features: distances by products of matrices differ in the last bits.
        fixed={"algorithm": "ball_tree", "n_jobs": 1},
        caution=DIRTY,
    ),
    "LOF": Kind(
        "pyod.models.lof",
        (Setting("n_neighbors", 20, 0, 101),),
        frozenset({"pyod.models.lof.LOF", "sklearn.neighbors._lof.LocalOutlierFactor"}) | _TREE,
        fixed={"algorithm": "ball_tree", "n_jobs": 1},
        caution=DIRTY,
    ),
    "OCSVM": Kind(
        "pyod.models.ocsvm",
        (Setting("nu", 0.5, 0, 1), Setting("gamma", "auto", choices=("auto", "scale"))),
        frozenset({"pyod.models.ocsvm.OCSVM", "sklearn.svm._classes.OneClassSVM"}),
    ),
}
_BATCH: Final = "its score of a row depends on the rows that are scored with it"
_BITS: Final = "its score of a row differs in the last digits with the rows that are scored with it"
REFUSED: Final[Mapping[str, str]] = {
    "ECOD": _BATCH,
    "COPOD": _BATCH,
    "GMM": _BITS,
    "INNE": _BITS,
    "PCA": "it divides by zero where a feature is constant or follows from others",
}
"""Those that somebody will ask for, and why not; measured with pyod 3.6.7."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A detector with all its parameters."""

    detector: str
    parameters: Mapping[str, int | float | str]

    @property
    def kind(self) -> Kind:
        """Its entry of the catalogue."""
        return KINDS[self.detector]

    def fit(self, rows: np.ndarray, seed: int) -> Any:
        """A pyod detector that is fitted to rows, float64, shape (n, k), C-contiguous; the same rows and seed give the same. Raises what pyod raises."""
        made = getattr(import_module(self.kind.module), self.detector)
        chance = {"random_state": seed % 2**31} if self.kind.seeded else {}
        fitted = made(**self.parameters, **self.kind.fixed, **chance).fit(rows)
        if self.detector == "HBOS":
            _align(fitted, rows)
        return fitted


def _align(hbos: Any, rows: np.ndarray) -> None:
    """Count the rows in the bins in which HBOS looks them up.

    It fills bins that are closed below and looks up in bins that are closed above (pyod 3.6.7): a value on an edge, which whole numbers and flags are, is
    found in the empty bin beside its own, and a constant looks as odd as what never was.
    """
    edges, bins = hbos.bin_edges_, hbos.n_bins
    for column, values in enumerate(rows.T):
        at = np.clip(np.digitize(values, edges[:, column], right=True), 1, bins) - 1
        hbos.hist_[:, column] = np.bincount(at, minlength=bins) / (len(rows) * np.diff(edges[:, column]))


def choose(detector: str, parameters: Mapping[str, object], where: str) -> Choice:
    """The detector of this name.

    Args:
        detector: A name in `KINDS`.
        parameters: Some of its settings; the others have their defaults.
        where: Whose it is, for messages.

    Raises:
        ConfigError: Unknown, refused, or a parameter does not fit; the text names the choices.
    """
    if detector not in KINDS:
        why = f"cannot be used: {REFUSED[detector]}" if detector in REFUSED else "is unknown"
        raise ConfigError(f"{where}: detector {detector!r} {why}; choose one of {', '.join(KINDS)}")
    settings = {setting.name: setting for setting in KINDS[detector].settings}
    for name in parameters:
        if name not in settings:
            raise ConfigError(f"{where}: {detector} has no parameter {name!r}; it has {', '.join(settings) or 'none'}")
    return Choice(
        detector,
        {
            n: s.parse(parameters[n], f"{where}: {detector}") if n in parameters else s.default
            for n, s in settings.items()
        },
    )
