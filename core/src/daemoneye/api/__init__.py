"""The user's side of DaemonEye: the Kubernetes API's models and the files that carry them.

Responsible for what a person may write and how it is checked; not for what a process does with it. The only part of
``daemoneye`` that imports pydantic.
"""
