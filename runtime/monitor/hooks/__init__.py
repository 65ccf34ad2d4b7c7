"""Containers with hooks of the OCI specification, made by the embedded runtime.

Loaded by a monitor when its pod starts the first such container, and by no other.
"""
