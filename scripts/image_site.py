"""Runs while an image is built: takes from a Python environment what no image needs, and compiles what is left.

Responsible for the files of locked packages and of our own; not for Debian's (image_system.py). Standard library only.

The byte code is compiled without time stamps and never checked: images are read-only, and copying must not make it stale.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import sys
from pathlib import Path
from typing import Final

# Folders of test suites: found by these names wherever they stand in a package.
TESTS: Final = frozenset({"tests", "test", "__pycache__"})
# Sources for compilers and type checkers.
SUFFIXES: Final = frozenset(
    {".pyi", ".pyx", ".pxd", ".pxi", ".c", ".cc", ".cpp", ".h", ".hpp", ".a", ".lib", ".cmake", ".f", ".f90"}
)
# Parts that nothing here imports: pattern → why.
UNUSED: Final = {
    "pyarrow/include": "headers",
    "pyarrow/src": "sources",
    "pyarrow/*flight*": "RPC of tables",
    "pyarrow/*s3*": "a cloud's storage",
    "pyarrow/*orc*": "another file format",
    "pyarrow/*azurefs*": "a cloud's storage",
    "pyarrow/*gcsfs*": "a cloud's storage",
    "numpy/_core/include": "headers",
    "numba/cuda": "GPUs",
    "kubernetes/aio": "a second client, which kopf and the operator do not use",
    "scapy/contrib/[!_h]*": "protocols that nothing here dissects; scapy's HTTP needs http2",
    "scapy/contrib/h[!t]*": "likewise",
    "scapy/tools": "programs for people",
    "zstandard/*cffi*": "for other Pythons than CPython",
    "matplotlib/mpl-data/sample_data": "examples",
}


def main() -> int:
    """Trim and compile the environment that the argument names."""
    root = Path(sys.argv[1])
    for site in root.glob("lib/python3*/site-packages"):
        trim(site)
    for script in (root / "bin").glob("*"):
        # Console scripts: every process is started by `python -m`.
        if not script.name.startswith("python"):
            script.unlink()
    good = compileall.compile_dir(
        root, quiet=1, workers=0, stripdir=str(root), prependdir="/opt/daemoneye", invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )  # fmt: skip
    return 0 if good else 1


def trim(site: Path) -> None:
    """Remove test suites, sources and unused parts of every package."""
    for pattern in UNUSED:
        for path in site.glob(pattern):
            remove(path)
    for folder, folders, names in os.walk(site, topdown=True):
        here = Path(folder)
        if here.suffix == ".dist-info":
            continue
        for name in list(folders):
            path = here / name
            if name in TESTS and here != site:
                folders.remove(name)
                remove(path)
        for name in names:
            if Path(name).suffix in SUFFIXES:
                remove(here / name)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
