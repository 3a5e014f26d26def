"""`python -m daemoneye_sensor`."""

from daemoneye_sensor.main import main

raise SystemExit(main())
