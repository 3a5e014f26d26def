"""The test cluster's programs: built once from the Go modules in tests/cluster/tools, kept by the hash of what they are built from.

Responsible for building and finding; not for running (`tests.cluster.harness.cluster`). Needs `go` for the first build only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TOOLS: Final = Path(__file__).parents[1] / "tools"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daemoneye-cluster"
KUBERNETES: Final = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet", "kubectl")
NAMES: Final = ("kubernetes", "helm", "coredns", "kwok")

_VERSION: Final = "v1.34.4"
_BASE: Final = "k8s.io/component-base/version"
_FLAGS: Final = ("-trimpath",)
_LDFLAGS: Final = {
    "kubernetes": f"-s -w -X {_BASE}.gitVersion={_VERSION} -X {_BASE}.gitMajor=1 -X {_BASE}.gitMinor=34",
}
# Folders of other hashes go when they have not been used for so long: another checkout may be at work.
_STALE_S: Final = 7 * 86_400


def tool(name: str) -> Path:
    """Path of one of NAMES or of KUBERNETES' programs; builds it first where it must.

    Raises:
        RuntimeError: There is no Go, or the build failed; the message holds the end of its output.
    """
    module = "kubernetes" if name in KUBERNETES else name
    folder = CACHE / f"{module}-{_key(module)}"
    binary = folder / name
    if not binary.exists():
        with _locked(CACHE / f"{module}.lock"):
            if not binary.exists():
                _build(module, folder)
    os.utime(folder)
    return binary


def _key(module: str) -> str:
    digest = hashlib.sha256(repr((_FLAGS, _LDFLAGS.get(module))).encode())
    for path in sorted((TOOLS / module).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(module: str, folder: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise RuntimeError(
            f"building {module} for the test cluster needs Go 1.24 or later: install it, `go` must be on PATH"
        )
    began = time.monotonic()
    print(f"test cluster: building {module} (once; minutes)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{module}-") as temporary:
        out = Path(temporary) / "out"
        out.mkdir()
        # An executable's name comes from its module for `tool` lines, and from us for our own main package.
        package = ["."] if module == "kubernetes" else ["tool"]
        target = out / "kubernetes" if module == "kubernetes" else f"{out}/"
        done = subprocess.run(
            [go, "build", *_FLAGS, "-ldflags", _LDFLAGS.get(module, "-s -w"), "-o", target, *package],
            cwd=TOOLS / module, env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"building {module} failed:\n{done.stdout[-4000:]}")
        if module == "kubernetes":
            for name in KUBERNETES:
                os.link(out / "kubernetes", out / name)
        shutil.rmtree(folder, ignore_errors=True)
        out.rename(folder)
    for old in CACHE.glob(f"{module}-*"):
        if old != folder and time.time() - old.stat().st_mtime > _STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    print(f"test cluster: {module} built in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
