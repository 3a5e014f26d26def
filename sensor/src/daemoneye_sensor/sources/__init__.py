"""Where events come from. A source is one module here, or a third party's entry point in the group `daemoneye.sources`."""
