"""The Kubernetes operator of DaemonEye.

Its code comes with its own issue; until then this package only holds its place in the layout.
"""
