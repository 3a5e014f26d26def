"""Identity of rows: containers, pods, workloads."""
