"""``daemoneye``: the command line's entry.

Responsible for choosing the command and for the exit status: 0 done (or ended by SIGINT, SIGTERM or ``--for``), 2 wrong
usage or configuration, 3 this machine lacks something, 1 anything else. An error of ours is one clear message on
stderr; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye.escape import escape
from daemoneye_cli.commands import doctor, events, findings, run, version

LATER: Final = {
    "intel": "the command intel arrives with threat intelligence (STIX/TAXII), which this release does not have",
    "rules": "the command rules arrives with Sigma rules, which this release does not have",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; give its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in arguments
    try:
        options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="daemoneye",
        description="Runtime security for Linux and Kubernetes, from kernel events to explained findings.",
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (run, doctor, events, findings, version):
        module.add(commands)
    for name, reason in LATER.items():
        later = commands.add_parser(name, add_help=False)
        later.add_argument("rest", nargs=argparse.REMAINDER)
        later.set_defaults(run=_refuse, reason=reason)
    return parser


def _refuse(options: argparse.Namespace) -> int:
    raise ConfigError(options.reason)
