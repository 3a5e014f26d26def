"""``python -m daemoneye_cli`` is ``daemoneye``."""

from __future__ import annotations

import sys

from daemoneye_cli.main import main

sys.exit(main())
