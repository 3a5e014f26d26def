"""Names from the bundles of containerd and CRI-O, and what a bundle must not be able to do."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.enrich.bundles import MAX_BYTES, Bundles, Names, parse

ID = "3f8a" * 16
CONTAINERD = {
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.image-name": "docker.io/library/till:1",
    "io.kubernetes.cri.sandbox-id": "7c" * 32,
    "io.kubernetes.cri.sandbox-name": "till-1",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-uid": "0a1b2c3d-1111-4222-8333-0123456789ab",
}
CRIO = {
    "io.kubernetes.container.name": "main",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.ImageName": "till:1",
    "io.kubernetes.pod.name": "till-1",
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.uid": "0a1b2c3d-1111-4222-8333-0123456789ab",
}


def bundle(folder: Path, annotations: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({"ociVersion": "1.0.2", "annotations": annotations}))
    return path


@pytest.mark.parametrize(
    ("annotations", "folder", "expected"),
    [
        (CONTAINERD, f"k8s.io/{ID}", Names("shop", "till-1", "main", "docker.io/library/till:1", "containerd")),
        (
            CONTAINERD | {"io.kubernetes.cri.container-type": "sandbox"},
            f"k8s.io/{ID}",
            Names("shop", "till-1", "POD", "docker.io/library/till:1", "containerd"),
        ),
        (CRIO, f"{ID}/userdata", Names("shop", "till-1", "main", "till:1", "cri-o")),
        (
            CRIO | {"io.kubernetes.cri-o.ContainerType": "sandbox"},
            f"{ID}/userdata",
            Names("shop", "till-1", "POD", "till:1", "cri-o"),
        ),
    ],
)
def test_names_of_each_runtime(tmp_path: Path, annotations: Any, folder: str, expected: Names) -> None:
    bundle(tmp_path / folder, annotations)
    assert Bundles(tmp_path).names(ID) == expected


def test_what_was_read_stays_although_the_bundle_goes(tmp_path: Path) -> None:
    path = bundle(tmp_path / "k8s.io" / ID, CONTAINERD)
    bundles = Bundles(tmp_path)
    assert bundles.names(ID)
    path.unlink()
    assert bundles.names(ID)
    assert Bundles(tmp_path).names(ID) is None
    assert Bundles(None).names(ID) is None


def test_an_absent_bundle_is_looked_for_again_later_not_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = Bundles(tmp_path)
    assert bundles.names(ID) is None
    bundle(tmp_path / "k8s.io" / ID, CONTAINERD)
    assert bundles.names(ID) is None
    now = time.monotonic()
    monkeypatch.setattr("daemoneye_sensor.enrich.bundles.time.monotonic", lambda: now + 11)
    assert bundles.names(ID)


def test_no_step_of_the_way_follows_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    secret = bundle(outside / ID, CONTAINERD)
    for number, link in enumerate(("k8s.io", f"k8s.io/{ID}", f"k8s.io/{ID}/config.json")):
        tasks = tmp_path / str(number)
        (tasks / link).parent.mkdir(parents=True)
        (tasks / link).symlink_to([outside, outside / ID, secret][number])
        assert (tasks / "k8s.io" / ID / "config.json").exists()
        assert Bundles(tasks).names(ID) is None


def test_what_is_no_small_file_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "k8s.io" / ID
    path = bundle(folder, CONTAINERD)
    with path.open("a") as file:
        file.write(" " * MAX_BYTES)
    assert Bundles(tmp_path).names(ID) is None
    path.unlink()
    os.mkfifo(path)  # a reader of this would wait for ever
    assert Bundles(tmp_path).names(ID) is None
    path.unlink()
    path.mkdir()
    assert Bundles(tmp_path).names(ID) is None


trees = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.binary(max_size=200) | trees.map(lambda tree: json.dumps({"annotations": tree}).encode()))
def test_whatever_stands_there_is_names_or_nothing(data: bytes) -> None:
    assert parse(data) is None


def test_values_that_are_no_text_and_depth_without_end_are_not_names() -> None:
    assert parse(json.dumps({"annotations": CONTAINERD | {"io.kubernetes.cri.sandbox-name": 7}}).encode()) is None
    assert parse(b'{"annotations":' + b"[" * 100_000) is None
    long = parse(json.dumps({"annotations": CONTAINERD | {"io.kubernetes.cri.container-name": "x" * 9999}}).encode())
    assert long
    assert len(long.container) == 512
