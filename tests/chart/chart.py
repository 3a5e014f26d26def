"""The chart as helm renders it.

Responsible for running `helm template` and for taking its output apart; what must hold of it is the tests' affair.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.harness import binaries

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "daemoneye"
CI: Final = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES: Final = "1.34.4"
"""A helm that is built as a library of Go modules takes itself for one of Kubernetes 1.20."""
MONITORING: Final = tuple(
    f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
)
"""What a cluster with the Prometheus operator knows."""
RELEASE: Final = "rel"
NAMESPACE: Final = "security"
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RefusedError(Exception):
    """helm rendered nothing; holds what it said."""


@cache
def template(
    *sets: str,
    values: Path | None = None,
    release: str = RELEASE,
    chart: Path = CHART,
    show: str = "",
    apis: tuple[str, ...] = (),
) -> str:
    """What `helm template` writes, with `--set` for each of `sets` and `--api-versions` for each of `apis`."""
    words = [word for value in sets for word in ("--set", value)]
    words += [word for api in apis for word in ("--api-versions", api)]
    words += ["--values", str(values)] if values else []
    words += ["--show-only", show] if show else []
    done = subprocess.run(
        [
            binaries.tool("helm"), "template", release, chart, "--namespace", NAMESPACE, "--kube-version", KUBERNETES, *words,
        ],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    """Kubernetes objects of rendered text."""
    return [value for value in yaml.load_all(text, LOADER) if value]


@cache
def render(
    *sets: str, values: Path | None = None, release: str = RELEASE, apis: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Kind/name → object."""
    found = objects(template(*sets, values=values, release=release, apis=apis))
    named = {f"{value['kind']}/{value['metadata']['name']}": value for value in found}
    assert len(named) == len(found), "two objects of one name"
    return named


def notes(tmp_path: Path, *sets: str, values: Path | None = None, apis: tuple[str, ...] = ()) -> str:
    """NOTES.txt as an installation without a cluster prints it: `helm template` leaves it out."""
    copy = tmp_path / "chart"
    if not copy.exists():
        shutil.copytree(CHART, copy)
        text = (copy / "templates" / "NOTES.txt").read_text()
        (copy / "templates" / "NOTES.txt").unlink()
        (copy / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}")
        (copy / "templates" / "notes.yaml").write_text('notes: |2\n{{ include "notes" . | indent 2 }}\n')
    shown = template(*sets, values=values, chart=copy, show="templates/notes.yaml", apis=apis)
    return str(yaml.safe_load(shown)["notes"])


def pods(named: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind/name and pod template (metadata and spec) of everything that runs."""
    for name, value in named.items():
        if value["kind"] == "Pod":
            yield name, {"metadata": value["metadata"], "spec": value["spec"]}
        elif "template" in value.get("spec", {}):
            yield name, value["spec"]["template"]
