"""Layer 7 on bytes: what the first payload bytes of a connection say. No scapy, no packet objects; one module a protocol."""
