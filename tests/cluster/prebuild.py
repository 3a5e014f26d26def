"""`python -m tests.cluster.prebuild`: what the cluster tests build once and keep, built before pytest begins.

Responsible for the order and for saying what takes minutes: on a new machine the builds take longer than any test may. Quick when everything is
there. Without root there is nothing to do, for then no cluster test runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.harness import binaries
from tests.cluster.release import build_images, revision

TOOLS = ("kubernetes", "helm", "coredns")


def main() -> int:
    """Exit status 0, or 3 when this machine lacks something."""
    if os.geteuid() != 0:
        return 0
    began = time.monotonic()
    try:
        for name in TOOLS:
            binaries.tool(name)
        build_images()
        with tempfile.TemporaryDirectory() as directory, revision("HEAD^", Path(directory)) as before:
            if before is not None:
                build_images(tree=before)
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        print(f"prebuild: {error}", file=sys.stderr)
        return 3
    if (seconds := time.monotonic() - began) > 10:
        print(f"prebuild: {seconds:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
