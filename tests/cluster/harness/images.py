"""Tiny container images, made without a builder: one static program in one layer, as an archive that `ctr images import` takes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path


def compile_static(source: Path, target: Path) -> Path:
    """Compile a C program without libraries' files beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Werror", "-o", target, source], check=True)
    return target


def archive(target: Path, name: str, files: dict[str, Path], command: list[str]) -> Path:
    """Write a docker archive of an image `name` (`repository:tag`) with these files (path in the image → source), all executable."""
    layer = _tar({path.lstrip("/"): source.read_bytes() for path, source in files.items()})
    config = json.dumps(
        {
            "architecture": _architecture(), "os": "linux", "config": {"Entrypoint": command, "Cmd": []},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()  # fmt: skip
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    target.write_bytes(_tar({"layer.tar": layer, "config.json": config, "manifest.json": manifest}))
    return target


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _architecture() -> str:
    return subprocess.run(
        ["dpkg", "--print-architecture"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
