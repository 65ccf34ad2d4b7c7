"""Containers that one of containerd's shims makes: a process for the pod, asked by ttrpc.

    plan.py       what the daemon hands over, and the documents that children write
    bundle.py     the shim's mount namespace, where its files and sockets are
    shim.py       the pod's shim: its start, its sandbox task, its end
    link.py       calls to it
    events.py     what it tells unasked
    container.py, command.py
    pause.py      the program of the sandbox task
    task.proto    the messages, as far as they are used

Loaded by a monitor when its pod starts the first such container, and by no other.
"""
