"""The contract that all of DaemonEye's processes share: events, envelope, subjects, policy models, errors. It does no I/O."""
