"""The commands that ask a cluster: ``kubectl daemoneye …``, which is ``daemoneye -k …``. One module a command.

Responsible for options and exit status, as the package around it.
"""
