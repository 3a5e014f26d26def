"""`python -m daemoneye_operator.brokerstore`: the broker's streams, where its configuration looks for them.

Responsible for one move at a server's start: before there were accounts (:mod:`daemoneye_operator.brokerconf`), all streams lay in nats-server's
global one. They move once the configuration names ours, not before: at an upgrade the server is restarted with the former configuration first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from daemoneye_operator import brokerconf

_GLOBAL: Final = "$G"


def move(configuration: Path, store: Path) -> bool:
    """Move the streams if they lie where the configuration does not look; whether they were moved.

    Raises:
        OSError: The configuration cannot be read, or the store not be changed.
    """
    former, ours = (store / "jetstream" / account for account in (_GLOBAL, brokerconf.STREAMS))
    if f'"{brokerconf.STREAMS}": {{' not in configuration.read_text("utf-8") or ours.exists() or not former.exists():
        return False
    former.rename(ours)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 when it could not be done: a server that started then would make new streams beside the former."""
    parser = argparse.ArgumentParser(prog="python -m daemoneye_operator.brokerstore", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(brokerconf.MOUNT, "nats.conf"))
    parser.add_argument("--store", type=Path, default=Path(brokerconf.STORE))
    options = parser.parse_args(arguments)
    try:
        moved = move(options.config, options.store)
    except OSError as error:
        sys.stderr.write(f"the broker's store {options.store} cannot be brought to {options.config}: {error}\n")
        return 1
    if moved:
        sys.stderr.write(f"streams of {options.store} moved to the account {brokerconf.STREAMS}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
