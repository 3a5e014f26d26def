"""One module a command: each has ``add(subparsers)``, which declares it, and a function that runs it.

Responsible for options and exit status; not for the work, which lives beside this package.
"""
