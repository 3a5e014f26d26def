"""The images as a node gets them: built by scripts/images.sh, unpacked from the archive, run with a read-only root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
NAMES: Final = ("operator", "analytics", "sensor", "nats")
# Mounted as the kubelet would: the root read-only, /tmp an emptyDir, and for the sensor the node's /sys with the BPF file system in it.
RUN: Final = """
set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
if [ -d "$root/proc" ]; then mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; mount --rbind /sys "$root/sys"; fi
exec "$@"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder builds images, which needs root."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def images(*names: str) -> tuple[list[Path], str]:
    """(archives, what the script said about building)."""
    done = subprocess.run([REPOSITORY / "scripts/images.sh", *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Path(line.split()[-1]) for line in done.stdout.splitlines()], done.stderr


class Image:
    """One image, unpacked."""

    def __init__(self, name: str, archive: Path, folder: Path) -> None:
        self.name = name
        self.archive = archive
        self.root = folder
        with tarfile.open(archive) as tar:
            (self.manifest,) = json.load(self._member(tar, "manifest.json"))
            self.config: dict[str, Any] = json.load(self._member(tar, self.manifest["Config"]))
            for layer in self.manifest["Layers"]:
                # tar(1): Python's would take three times as long.
                subprocess.run(
                    ["tar", "-xp", "--numeric-owner", "-C", folder], input=self._member(tar, layer).read(), check=True
                )

    @staticmethod
    def _member(tar: tarfile.TarFile, name: str) -> Any:
        file = tar.extractfile(name)
        assert file
        return file

    @property
    def sbom(self) -> dict[str, Any]:
        """The bill of materials in it."""
        value: dict[str, Any] = json.loads((self.root / "usr/share/doc/daemoneye/sbom.cdx.json").read_text())
        return value

    def distributions(self) -> set[str]:
        """Names of the Python distributions in it."""
        found = self.root.glob("opt/daemoneye/lib/python3*/site-packages/*.dist-info")
        return {path.name.split("-")[0].lower().replace("_", "-") for path in found}

    def command(self, *command: str) -> list[str]:
        """A command line that runs a command in it, as its user and with its environment."""
        about = self.config["config"]
        inside = [
            shutil.which("chroot") or "chroot",
            f"--userspec={about.get('User') or '0:0'}",
            str(self.root),
            *command,
        ]
        return [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            RUN,
            "sh",
            str(self.root),
            "env",
            "-i",
            *about["Env"],
            *inside,
        ]

    def run(self, *command: str) -> str:
        """Output of a command in it."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        """Output of a program in its environment."""
        return self.run("/opt/daemoneye/bin/python", "-c", code)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Image]]:
    """An image by its name; built and unpacked when it is asked for first."""
    if os.geteuid() != 0:
        pytest.skip("needs root: make test runs as root where it can")
    folder = tmp_path_factory.mktemp("images")
    known: dict[str, Image] = {}

    def get(name: str) -> Image:
        if name not in known:
            ((archive,), _) = images(name)
            (folder / name).mkdir()
            known[name] = Image(name, archive, folder / name)
        return known[name]

    yield get
    shutil.rmtree(folder)
