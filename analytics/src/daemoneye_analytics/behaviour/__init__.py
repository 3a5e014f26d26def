"""The behavioural analyser: what is normal for a workload, and how unusual a window of it is."""
