"""``daemoneye`` and ``kubectl daemoneye``: the command line's entry.

Responsible for choosing between this machine and a cluster, for choosing the command and for the exit status: 0 done (or
ended by SIGINT, SIGTERM or ``--for``), 2 wrong usage or configuration, 3 this machine or the cluster lacks something, 1
anything else. An error of ours is one clear message on stderr; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye.escape import escape

PLUGIN: Final = "kubectl-daemoneye"
"""Name under which kubectl finds us."""
LATER: Final = {
    "intel": "the command intel arrives with threat intelligence (STIX/TAXII), which this release does not have",
    "rules": "the command rules arrives with Sigma rules, which this release does not have",
}
COMMANDS: Final = {
    False: ("run", "doctor", "events", "findings", "evidence", "top", "bugtool", "version"),
    True: ("status", "findings", "events", "evidence", "verdict", "policy", "top", "doctor", "bugtool", "version"),
}
"""Modules of the commands, by whether a cluster is asked; only those of one are imported."""
ELSEWHERE: Final = {
    False: {
        "status": "the command status asks a cluster: kubectl daemoneye status, or daemoneye -k status",
        "policy": "the command policy is the cluster's: kubectl daemoneye policy, or daemoneye -k policy",
        "verdict": "the command verdict is the cluster's: kubectl daemoneye verdict, or daemoneye -k verdict",
    },
    True: {"run": "the command run watches one machine: daemoneye run"},
}
"""Commands of the other one of the two, by whether a cluster is asked."""


def main(argv: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run one command; give its exit status. ``program`` is the name under which we were called."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    plugin = Path(sys.argv[0] if program is None else program).stem == PLUGIN
    debug = "--debug" in arguments
    try:
        options = parser_for(arguments, plugin=plugin).parse_args(arguments)
        return int(options.run(options))
    except SystemExit as end:  # argparse: 0 after --help, 2 after an error that it has printed
        return end.code if isinstance(end.code, int) else 2
    except (KeyboardInterrupt, asyncio.CancelledError, BrokenPipeError):
        return 0
    except DaemonEyeError as error:
        if debug:
            traceback.print_exc()
        for line in str(error).splitlines():
            print(f"daemoneye: {escape(line)}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a line and a status, not our stack
        if debug:
            traceback.print_exc()
        name = type(error).__name__
        print(f"daemoneye: internal error: {name}: {escape(str(error))} (--debug shows where)", file=sys.stderr)
        return DaemonEyeError.exit_code


def parser_for(arguments: Sequence[str], *, plugin: bool) -> argparse.ArgumentParser:
    """Give the parser: a cluster's for kubectl's plugin and for ``-k`` before the command, else this machine's."""
    names = {*COMMANDS[False], *COMMANDS[True], *LATER}
    before = itertools.takewhile(lambda word: word not in names, arguments)
    asks_cluster = plugin or bool({"-k", "--cluster"}.intersection(before))
    parser = argparse.ArgumentParser(
        prog="kubectl daemoneye" if plugin else "daemoneye -k" if asks_cluster else "daemoneye",
        description="Runtime security for Linux and Kubernetes, from kernel events to explained findings.",
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    about = argparse.SUPPRESS if plugin else "ask a cluster, as kubectl daemoneye does: daemoneye -k --help"
    parser.add_argument("-k", "--cluster", action="store_true", help=about)
    package = "daemoneye_cli.commands"
    if asks_cluster:
        package = "daemoneye_cli.commands.cluster"
        importlib.import_module(f"{package}.options").add_cluster(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS[asks_cluster]:
        importlib.import_module(f"{package}.{name}").add(commands)
    for name, reason in (*LATER.items(), *ELSEWHERE[asks_cluster].items()):
        later = commands.add_parser(name, add_help=False)
        later.add_argument("rest", nargs=argparse.REMAINDER)
        later.set_defaults(run=_refuse, reason=reason)
    return parser


def _refuse(options: argparse.Namespace) -> int:
    raise ConfigError(options.reason)
