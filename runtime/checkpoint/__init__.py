"""Checkpoints of processes, which CRIU writes and restores: how it is called, and what is believed
of images that somebody else may have written.

    criu.py      its command lines, and its complaints
    wire.py      the format of its images
    mounts.py    the mounts of a restored container: written by us, whatever the checkpoint says
    confine.py   its processes: checked against, and changed to, what the container is to be
    files.py     what these processes have open
    addresses.py their sockets' addresses, which the pod must have
    terminals.py its terminals
    ipc.py       what else their pod's processes share
    shm.py       the shared memory of their pod
"""
