"""`kubectl daemoneye` as a user runs it: kubectl's plugin, found on PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster.harness import binaries
from tests.cluster.harness.cluster import Cluster


class Cli:
    """The command against one cluster.

    Attributes:
        environment: What it runs with.
    """

    def __init__(self, cluster: Cluster) -> None:
        path = (str(binaries.tool("kubectl").parent), str(Path(sys.executable).parent), os.environ["PATH"])
        self.environment = {**os.environ, "PATH": os.pathsep.join(path), "KUBECONFIG": str(cluster.kubeconfig)}
        self.environment["KUBECACHEDIR"] = str(cluster.state / "kubectl-cache")

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, what it printed, and what it said of trouble."""
        done = subprocess.run(
            ["kubectl", "daemoneye", *arguments], env=self.environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    def lines(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit status and its lines of JSON."""
        status, out, _ = self(*arguments, "-o", "json")
        return status, [json.loads(line) for line in out.splitlines()]

    def checks(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit status and checks of `doctor`, by name."""
        status, found = self.lines("doctor")
        return status, {check["name"]: check for check in found}

    def execs(self, namespace: str, pod: str) -> list[dict[str, Any]]:
        """The executions of a pod that the broker has, oldest first."""
        words = ("--pod", f"{namespace}/{pod}", "--event", "process_exec", "--last", "100000")
        status, said = self.lines("events", *words)
        assert status == 0, said
        return [event for event in said if event["kind"] == "event"]  # losses are always told
