"""Containers that one of containerd's shims makes: a process for the pod, asked by ttrpc.

    plan.py       what the daemon hands over, and the documents that children write
    bundle.py     the shim's mount namespace, where its files and sockets are
    chores.py     the children of the monitor that are in there
    shim.py       the pod's shim: its start and its end
    sandbox_task.py, sandbox_service.py
                  the pod's sandbox, where the shim makes one: a task, or by containerd's service
    link.py       calls to it
    task.py       those about one process
    events.py     what it tells unasked
    container.py, command.py
    pause.py      the program of the sandbox task
    task.proto, sandbox.proto
                  the messages, as far as they are used

Loaded by a monitor when its pod starts the first such container, or has its sandbox made by a shim,
and by no other.
"""
