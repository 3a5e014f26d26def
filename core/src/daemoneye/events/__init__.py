"""The event schema: declarations, registry, codec."""
