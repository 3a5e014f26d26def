"""Detectors: one file each. `daemoneye_analytics.registry` lists the built-in ones, entry points add others."""
