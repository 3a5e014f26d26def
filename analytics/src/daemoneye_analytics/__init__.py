"""DaemonEye's analytics: batches of events in, explained findings out."""
