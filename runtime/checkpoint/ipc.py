"""System V IPC: semaphores, queues and segments of memory, which belong to a pod's IPC namespace.

CRIU writes them down if that namespace is not its own, and makes them in a new one only. So that is
what happens where a pod has any: a new namespace is made, which then becomes the pod's, as long as
no other container has been started in the old one.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import MalformedImage, Message, read, write

if TYPE_CHECKING:
    from runtime.checkpoint.confine import Images

_KINDS: Final = ("shm", "sem", "msg")
_PAGES, _HUGE = 3, 4  # of an ipc_shm_entry
# Fields of an ipc_var_entry, and where the kernel has them: of the namespace that one is in.
_SYSCTLS: Final = {
    1: "kernel/sem",
    2: "kernel/msgmax",
    3: "kernel/msgmnb",
    4: "kernel/msgmni",
    5: "kernel/auto_msgmni",
    6: "kernel/shmmax",
    7: "kernel/shmall",
    8: "kernel/shmmni",
    9: "kernel/shm_rmid_forced",
    10: "fs/mqueue/queues_max",
    11: "fs/mqueue/msg_max",
    12: "fs/mqueue/msgsize_max",
    13: "fs/mqueue/msg_default",
    14: "fs/mqueue/msgsize_default",
}


def in_use() -> bool:
    """Whether there is any in the namespace in which we are."""
    for kind in _KINDS:
        with open(f"/proc/sysvipc/{kind}", "rb") as file:
            if len(file.readlines()) > 1:  # the first has titles
                return True
    return False


def attached(pids: Iterable[int]) -> bool:
    """Whether one of these processes has a segment of shared memory in its own."""
    for pid in pids:
        ended = suppress(FileNotFoundError, ProcessLookupError)
        with ended, open(f"/proc/{pid}/maps", "rb") as file:
            if any(b" /SYSV" in line for line in file):
                return True
    return False


def confine(images: Images, number: int) -> None:
    """Images of the namespace with this number: its limits become those of the pod in which we are.

    Raises Refused for what takes more than a process of the pod may have, MalformedImage.
    """
    for entry in read("ipcns-shm", images.load(f"ipcns-shm-{number}.img")):
        if not entry.number(_PAGES, 0):
            raise MalformedImage("a segment of shared memory in the form of an old CRIU")
        if entry.number(_HUGE, 0):
            raise Refused("a segment of shared memory of huge pages")
    numbers = ((field, value) for field, name in _SYSCTLS.items() for value in _read(name))
    limits = Message.of(*numbers)
    images.save(f"ipcns-var-{number}.img", write("ipcns-var", [limits]))


def _read(name: str) -> list[int]:
    with open(f"/proc/sys/{name}", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
