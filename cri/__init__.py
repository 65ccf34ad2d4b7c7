"""The Kubernetes face of podwright: CRI v1 over gRPC, and the `podwright` command."""

VERSION = "0.1.0"  # as in pyproject.toml; a test compares them
