"""What a process gets of CPU, disks and memory: sched(7), ioprio_set(2), set_mempolicy(2)."""

from __future__ import annotations

import os

from runtime.linux.libc import Integer, Text, Unsigned, UnsignedLong, syscall

_WHO_PROCESS = 1
_NUMBERS = {  # sched_setattr, ioprio_set, set_mempolicy; last what newer machines agree on
    "x86_64": (314, 251, 238),
    "ppc64le": (355, 273, 261),
    "s390x": (345, 282, 270),
}.get(os.uname().machine, (274, 30, 237))
_sched_setattr = syscall("sched_setattr", _NUMBERS[0], Integer, Text, Unsigned)
_ioprio_set = syscall("ioprio_set", _NUMBERS[1], Integer, Integer, Integer)
_set_mempolicy = syscall("set_mempolicy", _NUMBERS[2], Integer, Text, UnsignedLong)


def set_scheduler(attributes: bytes) -> None:
    """This process's; attributes: a struct sched_attr."""
    _sched_setattr(0, attributes, 0)


def set_io_priority(priority: int) -> None:
    """This process's; priority: class and level, as the kernel packs them."""
    _ioprio_set(_WHO_PROCESS, 0, priority)


def set_memory_policy(mode: int, nodes: bytes) -> None:
    """This process's and its descendants'; mode: with flags; nodes: a bit mask of whole longs."""
    _set_mempolicy(mode, nodes or None, len(nodes) * 8 + 1 if nodes else 0)
