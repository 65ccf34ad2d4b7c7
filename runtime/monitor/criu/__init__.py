"""Checkpoints: containers frozen, their processes written to disk by CRIU, and started from there.

Loaded by a monitor at the first such request, and by no other. CRIU runs in a child of the monitor,
so in the namespaces of the pod that are no part of a checkpoint: network, UTS, and IPC without any
System V IPC in it.
"""
