"""API version ``daemoneye.io/v1alpha1``: one module a kind.

Responsible for the shape of each kind; not for reading files (:mod:`daemoneye.api.policyfile`) nor for talking to an
API server.
"""
