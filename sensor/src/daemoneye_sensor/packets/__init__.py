"""Packets as columns: from a block of captured frames to flows and to the messages of a few protocols.

Nothing here runs Python per packet but for those that carry what a protocol's parser (:mod:`daemoneye_sensor.l7`) is to read.
"""
