"""The command line: ``daemoneye`` (and later ``kubectl daemoneye``).

Responsible for starting, watching and showing; not for any of the work itself: sensor, broker and analytics are
processes of their own, and nothing of them is imported here.
"""
