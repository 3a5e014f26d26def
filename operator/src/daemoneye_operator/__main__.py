"""`python -m daemoneye_operator run|identity|callout|uninstall|check`: the processes of the operator's image.

Responsible for arguments, log and exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from daemoneye.errors import DaemonEyeError
from daemoneye_operator.settings import DEFAULT_PATH, OperatorSettings, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m daemoneye_operator", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS), help="which process to run")
    parser.add_argument("--settings", type=Path, default=DEFAULT_PATH, help=f"settings file ({DEFAULT_PATH})")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load(options.settings)
        logging.getLogger().setLevel(settings.log_level.upper())
        return COMMANDS[options.command](settings)
    except DaemonEyeError as error:
        print(f"daemoneye-operator: {error}", file=sys.stderr)  # noqa: T201 - one line for a person
        return error.exit_code


def _run(settings: OperatorSettings) -> int:
    from daemoneye_operator import main as operator

    asyncio.run(operator.serve(settings))
    return 0


def _identity(settings: OperatorSettings) -> int:
    from daemoneye_operator import publisher

    asyncio.run(publisher.serve(settings))
    return 0


def _callout(settings: OperatorSettings) -> int:
    from daemoneye_operator.callout import process

    asyncio.run(process.serve(settings))
    return 0


def _uninstall(settings: OperatorSettings) -> int:
    from daemoneye_operator import uninstall

    return asyncio.run(uninstall.empty_nodes(settings))


def _check(settings: OperatorSettings) -> int:
    from daemoneye_operator import check

    return check.components(settings)


COMMANDS: Final[dict[str, Callable[[OperatorSettings], int]]] = {
    "run": _run,
    "identity": _identity,
    "callout": _callout,
    "uninstall": _uninstall,
    "check": _check,
}

if __name__ == "__main__":
    raise SystemExit(main())
