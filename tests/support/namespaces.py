"""Network namespaces of a test, and processes that talk in them (tests.support.talking)."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support import talking

TALKING = talking.__file__
JOINED_S = 60.0
_NUMBERS = itertools.count()


class Namespace:
    """A network namespace of this test and the processes in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._running: list[subprocess.Popen[str]] = []
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.inode = os.stat(f"/run/netns/{name}").st_ino

    def run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.name, *command], check=True)

    def links(self) -> list[dict[str, Any]]:
        """Its interfaces, as ip-link(8) says them in JSON."""
        listed = subprocess.run(["ip", "-n", self.name, "-j", "link"], capture_output=True, check=True).stdout
        return list(json.loads(listed))

    def start(self, *words: object) -> subprocess.Popen[str]:
        """A process that talks; it is gone with the namespace."""
        command = ["ip", "netns", "exec", self.name, sys.executable, TALKING, *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pipesize=1 << 20)
        self._running.append(process)
        return process

    def talk(self, *words: object) -> list[dict[str, Any]]:
        """What such a process says that ends by itself."""
        process = self.start(*words)
        out, _ = process.communicate()
        assert process.returncode == 0
        return [json.loads(line) for line in out.splitlines()]

    def remove(self) -> None:
        for process in self._running:
            subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
        subprocess.run(["ip", "netns", "del", self.name], check=True)


def joined(*spaces: Namespace) -> None:
    """Wait until their cables carry. The kernel takes note of the other end a moment after it is up (net/core/link_watch.c), and drops what is sent before."""
    deadline = time.monotonic() + JOINED_S
    for space in spaces:
        while not _carries(space):
            assert time.monotonic() < deadline, f"a cable of {space.name} does not carry after {JOINED_S:g} s"
            time.sleep(0.01)  # between two looks: nothing tells that it carries


def _carries(space: Namespace) -> bool:
    return all(link["operstate"] in ("UP", "UNKNOWN") and link["qdisc"] != "noop" for link in space.links())


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a process says."""
    assert process.stdout
    return json.loads(process.stdout.readline())


@contextmanager
def star(arms: int) -> Iterator[list[Namespace]]:
    """A namespace in the middle and others, each joined to it by a cable: 10.213.N.1 and fd00:213:N::1 is the middle, .2 and ::2 arm N (from 0 on)."""
    which = next(_NUMBERS)
    made = [Namespace(f"de-test-{os.getpid()}-{which}-{number}") for number in range(arms + 1)]
    middle, *others = made
    try:
        for number, arm in enumerate(others):
            names = [f"de{os.getpid()}.{which}{number}{side}" for side in "ab"]
            subprocess.run(["ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1]], check=True)
            for at, (space, name) in enumerate(zip((middle, arm), names, strict=True), 1):
                subprocess.run(["ip", "link", "set", name, "netns", space.name], check=True)
                space.run("ip", "addr", "add", f"10.213.{number}.{at}/24", "dev", name)
                space.run("ip", "addr", "add", f"fd00:213:{number}::{at}/64", "dev", name, "nodad")
                space.run("ip", "link", "set", name, "up")
        joined(*made)
        yield made
    finally:
        for space in made:
            space.remove()
