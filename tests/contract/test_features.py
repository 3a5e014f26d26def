"""The reference of features, models and detectors is what the analyser takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from daemoneye_analytics.behaviour import models
from daemoneye_analytics.behaviour.catalogue import FEATURES
from daemoneye_analytics.behaviour.outliers import KINDS, REFUSED
from daemoneye_analytics.codegen import detectors, features, main
from daemoneye_analytics.registry import BUILT_IN

REPOSITORY = Path(__file__).parents[2]


def test_the_page_is_fresh() -> None:
    assert main(["--check", str(REPOSITORY)]) == 0, "run `make generate`"


def test_a_stale_page_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    (tmp_path / "docs/reference/features.md").write_text("edited by hand")
    assert main(["--check", str(tmp_path)]) == 1
    assert "docs/reference/features.md: stale" in capsys.readouterr().err


def test_it_has_a_row_for_everything_that_can_be_named() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", features(), re.MULTILINE)
    known = (
        [f.name for f in FEATURES] + [spec.name for spec in (*models.BUILT_IN, *models.OPTIONAL)] + [*KINDS, *REFUSED]
    )
    assert sorted(rows) == sorted(known)


def test_every_detector_has_its_parameters_on_a_page() -> None:
    page = detectors()
    for cls in BUILT_IN:
        declared = cls.declaration
        section = page.partition(f"\n## {declared.name}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == [p.name for p in declared.parameters]


def test_the_examples_of_the_users_page_are_taken() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/behaviour.md").read_text(), re.DOTALL)
    declared = [policy["spec"]["analytics"]["models"] for block in blocks for policy in yaml.safe_load_all(block)]
    assert declared
    for given in declared:
        assert len(models.parse(json.loads(json.dumps(given)))) == len(given)
