"""`python -m daemoneye_analytics`."""

import sys

from daemoneye_analytics.main import main

sys.exit(main())
