"""What people and programs see: plain lines, JSON lines and the live view.

Responsible for form alone, and for letting nothing from a process reach a terminal unescaped; not for where the data
comes from (:mod:`daemoneye_cli.feed`).
"""
