"""The distribution client: what a registry, or a mirror of it, has under a name."""
