"""Containers that an OCI runtime's command line makes: runc, crun, runsc and their like.

Loaded by a monitor when its pod starts the first such container, and by no other.
"""
