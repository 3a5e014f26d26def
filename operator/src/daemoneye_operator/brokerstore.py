"""`python -m daemoneye_operator.brokerstore`: the broker's streams, where its configuration looks for them.

Responsible for one move at a server's start: before there were accounts (:mod:`daemoneye_operator.brokerconf`), all streams lay in nats-server's
global one. They move once the configuration names ours, not before: at an upgrade the server is restarted with the former configuration first.
Where both are (a roll-back made streams again), ours stay, and the others are put aside: a server that has no use for them says for ever that it is
not healthy, and would be ended for it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from daemoneye_operator import brokerconf

_GLOBAL: Final = "$G"
_ASIDE: Final = "before-accounts"
"""Beside nats-server's own directory; what was put there before makes room."""


def move(configuration: Path, store: Path) -> Path | None:
    """Move the streams if they lie where the configuration does not look; where they were moved to.

    Raises:
        OSError: The configuration cannot be read, or the store not be changed.
    """
    former, ours = (store / "jetstream" / account for account in (_GLOBAL, brokerconf.STREAMS))
    if f'"{brokerconf.STREAMS}": {{' not in configuration.read_text("utf-8") or not former.exists():
        return None
    place = ours
    if ours.exists():
        place = store / _ASIDE
        if place.exists():
            shutil.rmtree(place)
    former.rename(place)
    return place


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
    if moved is not None and moved.name == _ASIDE:
        sys.stderr.write(
            f"streams of a release before, made since there are those of the account {brokerconf.STREAMS}, were put aside: {moved}, which nothing "
            "reads. Remove it when the volume has no room to spare\n"
        )
    elif moved is not None:
        sys.stderr.write(f"streams of {options.store} moved to the account {brokerconf.STREAMS}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
