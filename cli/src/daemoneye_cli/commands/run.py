"""``daemoneye run``: the whole pipeline on this machine.

Responsible for the options and for what is asked of them together; the run itself is :mod:`daemoneye_cli.session`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemoneye.api.inactive import inactive
from daemoneye.api.policyfile import LoadedPolicy, load_config, load_policy
from daemoneye.api.v1alpha1.common import API_VERSION, ObjectMeta
from daemoneye.api.v1alpha1.policy import KIND, DaemonEyePolicy
from daemoneye.errors import ConfigError, MachineError
from daemoneye.escape import escape
from daemoneye_cli.commands.options import Subparsers, add_output, add_state, command, positive
from daemoneye_cli.configuration import Plan, recording
from daemoneye_cli.logfile import LogLine
from daemoneye_cli.session import RunView, Session
from daemoneye_cli.show.jsonlines import JsonView
from daemoneye_cli.show.live import LiveView
from daemoneye_cli.show.plain import PlainView, finding_lines
from daemoneye_cli.show.text import TRIGGER
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.state import State
from daemoneye_cli.tally import Tally

LATER: Final = {
    "etl": "Windows monitoring (ETW)",
    "evtx": "Windows monitoring (ETW)",
    "es": "macOS monitoring (Endpoint Security)",
}
_SUMMARY: Final = 20
_NO_EVIDENCE: Final = "a file is read, which has its packets"


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "run", "Watch this machine, or replay a recording, and show findings.")
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--policy", type=Path, metavar="FILE", help="a DaemonEyePolicy object in YAML")
    settings.add_argument("--config", type=Path, metavar="FILE", help="the specification's YAML (enterprise: …)")
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument("--replay", type=Path, metavar="FILE", help="read a recording instead of the kernel")
    inputs.add_argument(
        "--pcap", type=Path, metavar="FILE", help="read packets of a capture file (pcap, pcapng) instead"
    )
    for name, feature in LATER.items():
        inputs.add_argument(f"--{name}", metavar="FILE", help=f"arrives with {feature}")
    parser.add_argument("--for", type=positive, metavar="SECONDS", dest="seconds", help="end after so long a watch")
    add_output(parser, "live", "plain", "json", default=None)
    parser.add_argument("--events", action="store_true", help="write events, too (plain, json)")
    parser.add_argument("--scores", action="store_true", help="write scores, too (json)")
    add_state(parser)
    parser.add_argument("--node", default=socket.gethostname(), help=argparse.SUPPRESS)
    parser.add_argument("--listen-port", type=int, default=0, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until the end."""
    for name, feature in LATER.items():
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name} arrives with {feature}, which this release does not have")
    policy = _policy(options)
    form = "replay" if options.pcap is None else "pcap"
    path = options.replay or options.pcap
    _check_input(form, path, policy)
    output = options.output or ("live" if sys.stdout.isatty() else "plain")
    if output == "live" and not sys.stdout.isatty():
        output = "plain"
    for note in policy.notes:
        _say(note)
    if options.scores and options.output != "json":
        _say("--scores: scores are written with -o json alone")
    idle = tuple(
        str(entry)
        for entry in inactive(policy.policy, spelling=policy.spelling, no_evidence=_NO_EVIDENCE if path else "")
    )
    if output != "live":
        for entry in idle:
            _say(entry)
    with _state(options, offline=path is not None) as state:
        plan = Plan(policy, state, options.node, path, form, options.listen_port)
        tally = Tally(options.node, time.monotonic, inactive=idle, hint="" if path else TRIGGER)
        try:
            asyncio.run(_run(plan, tally, output, options))
        except MachineError as error:
            if path is None:
                raise _with_offer(error) from None
            raise
        if output == "live":
            _summary(tally)
    return 0


async def _run(plan: Plan, tally: Tally, output: str, options: argparse.Namespace) -> None:
    writer = LineWriter()

    def on_line(line: LogLine) -> None:
        if not line.matters:
            return
        tally.lines.append(line)
        if output != "live":
            _say(f"{line.source}: {line.level}: {line.text}")

    session = Session(plan, tally, seconds=options.seconds, on_line=on_line)
    view: RunView
    live: LiveView | None = None
    if output == "json":
        view = JsonView(writer, tally, events=options.events, scores=options.scores)
    elif output == "plain":
        view = PlainView(writer, tally, events=options.events)
    else:
        view = live = LiveView(tally, on_quit=session.end)
        await live.start()
    try:
        await session.run(view)
    finally:
        if live is not None:
            await live.close()
        writer.abandon()


def _policy(options: argparse.Namespace) -> LoadedPolicy:
    if options.policy is not None:
        return load_policy(options.policy)
    if options.config is not None:
        return load_config(options.config)
    metadata = ObjectMeta(name="default")
    return LoadedPolicy(DaemonEyePolicy(api_version=API_VERSION, kind=KIND, metadata=metadata))


def _check_input(form: str, path: Path | None, policy: LoadedPolicy) -> None:
    if path is not None:
        try:
            with path.open("rb"):
                return
        except OSError as error:
            raise ConfigError(f"--{form} {path}: cannot be read: {error.strerror}") from None
    spec = policy.policy.spec
    if not spec.kernel_monitoring.enable_ebpf and not spec.network_monitoring.enable_packet_capture:
        raise ConfigError(
            "the policy turns eBPF off, captures no packets, and neither --replay nor --pcap is given: "
            "there is nothing to watch on this machine"
        )


@contextlib.contextmanager
def _state(options: argparse.Namespace, *, offline: bool) -> Iterator[State]:
    """Give the run's state; one that reads a file has its own: it must neither learn from the past nor teach the future."""
    state = State.at(options.state)
    state.prepare()
    if not offline:
        yield state
        return
    with tempfile.TemporaryDirectory(prefix="replay-", dir=state.path, ignore_cleanup_errors=True) as directory:
        own = State(Path(directory))
        own.prepare()
        yield own


def _with_offer(error: MachineError) -> MachineError:
    offer = f"`daemoneye run --replay {recording()}` shows a recording without it"
    return MachineError(f"{error}\n`daemoneye doctor` checks all that is needed; {offer}")


def _summary(tally: Tally) -> None:
    """Say in lines what the screen has shown: it is gone now."""
    for finding in list(tally.findings)[-_SUMMARY:]:
        print(finding_lines(finding), end="")
    print(f"{tally.events:,} events, {tally.findings_count} findings, lost: {sum(tally.lost.values()):,}")


def _say(text: str) -> None:
    print(f"daemoneye: {escape(text)}", file=sys.stderr, flush=True)
