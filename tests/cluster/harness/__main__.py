"""`python -m tests.cluster.harness up|down|status|build|load FILE…`: the test cluster for people."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.cluster.harness import binaries
from tests.cluster.harness.cluster import Cluster, CommandError


def main() -> int:
    """Exit status 0, or 3 when this machine lacks something."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.harness", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "build", "load"])
    parser.add_argument("files", nargs="*", type=Path, help="image archives to load")
    parser.add_argument("--name", default="test", help="name of the cluster (default: test)")
    parser.add_argument("--index", type=int, default=0, help="keeps addresses of several apart (default: 0)")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.name, arguments.index)
    began = time.monotonic()
    try:
        if arguments.command == "up":
            cluster.up()
            print(
                f"export KUBECONFIG={cluster.kubeconfig} PATH={binaries.tool('kubectl').parent}:{binaries.tool('helm').parent}:$PATH"
            )
        elif arguments.command == "down":
            cluster.down()
        elif arguments.command == "build":
            for name in binaries.NAMES:
                print(binaries.tool(name))
        elif arguments.command == "load":
            for path in arguments.files:
                cluster.load_image(path)
        else:
            for name in cluster.processes.names():
                print(f"{name:25} {'running' if cluster.processes.running(name) else 'ended'}")
            print(cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide", check=False))
    except (RuntimeError, CommandError) as error:
        print(error, file=sys.stderr)
        return 3
    print(f"{arguments.command}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
