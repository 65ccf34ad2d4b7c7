"""Processes that do the dangerous and the heavy: what comes from registries is read here.

A fresh interpreter each (never a fork of the daemon), kept warm for a while, killed to cancel.
`pool` is the daemon's side, `__main__` the worker's, `messages` what they say to each other.
"""
