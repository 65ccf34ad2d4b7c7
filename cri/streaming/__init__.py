"""Exec, attach and port-forward: bytes between a client's HTTP connection and a process of a pod."""
