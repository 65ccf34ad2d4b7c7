"""Netlink as the kernel speaks it: a codec, a socket, and the messages that pods need.

A codec of our own, because attaching a pod is on the way of every pod's start: two batches of
messages and no look-ups, where a general library takes ten times as long (see the README).
"""
