"""What the processes of a checkpoint may be: no more than the container that they are to become.

A checkpoint says of each process which capabilities, filters, limits and users it has, and CRIU,
being root, makes it so. So before CRIU sees them, images are checked and rewritten:

    capabilities, users      more than the container's: refused
    seccomp                  the container's filter is put beneath all others
    no_new_privs, AppArmor,  the container's, whatever the checkpoint says
      death signal
    resource limits          no more than the container's; scores and cgroups: none
    namespaces               one of mounts, pids, cgroups and time for all; others are the pod's
    open files               see files.py, places.py, sockets.py, terminals.py
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from runtime.checkpoint import files, ipc, places, sockets, terminals
from runtime.checkpoint.files import MayOpen, Refused
from runtime.checkpoint.places import Stays
from runtime.checkpoint.wire import MalformedImage, Message, first, read, write
from runtime.init import capabilities
from runtime.init.values import Identity

_MOST: Final = 64 << 20  # bytes of an image that is read whole
_VERSION: Final = 2  # of the images' format: since CRIU 2.0
_DEAD, _ZOMBIE = 2, 6
_SIGKILL: Final = 9
_FILTER: Final = 2  # seccomp's mode
_FILTER_FLAGS: Final = 0x2 | 0x4  # LOG, SPEC_ALLOW: what else there is concerns the call
_NORMAL_POLICIES: Final = (0, 3, 5)  # SCHED_OTHER, BATCH, IDLE
_SYS_NICE, _NET_RAW, _SETUID = 1 << 23, 1 << 13, 1 << 7
_SAME: Final = {"network": 6, "UTS": 8}
_OWN: Final = {"pid": 5, "IPC": 7, "mount": 9, "user": 10, "cgroup": 11, "time": 12}
_TASK = re.compile(r"core-(\d+)\.img")
# Fields of CRIU's core_entry, thread_core_entry, task_core_entry and creds_entry.
_TC, _THREAD = 3, 5
_NICE, _POLICY, _PRIORITY, _DEATH_SIGNAL, _CREDS, _MODE, _WHICH = 3, 4, 5, 8, 10, 11, 12
_STATE, _RLIMITS, _OLD_MODE, _OLD_FILTER, _LOGINUID, _OOM_SCORE = 1, 8, 11, 12, 13, 14
_USERS, _GROUP_IDS, _GROUPS = (1, 3, 5, 7), (2, 4, 6, 8), 14
_SETS: Final = {"inheritable": 9, "permitted": 10, "effective": 11, "bounding": 12, "ambient": 19}
_LSM, _SOCKET_LSM, _LSM_DATA, _NO_NEW_PRIVS = 15, 16, 17, 18
_LSM_TYPE, _PLUGINS = 6, 12  # of the inventory
_REMAPS, _LINKED, _GHOST_BIT = "remap-fpath.img", 0, 1 << 31
_APPARMOR: Final = 2  # enum lsmtype of inventory.proto; 0: none


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the container is to be. bounding, permitted: of its capabilities; limits: number of a
    resource -> the most that may be; seccomp: its program, empty without; label: the profile of
    AppArmor; pids: whose its pid namespace is: "own", "pod" or "node"; terminal: it has one;
    ipc: it may bring the pod's System V IPC, as nobody else has any."""

    identity: Identity
    bounding: int
    permitted: int
    no_new_privileges: bool
    limits: tuple[tuple[int, int], ...]
    seccomp: bytes = b""
    seccomp_flags: int = 0
    label: str = ""
    pids: str = "own"
    terminal: bool = False
    ipc: bool = False

    @property
    def most(self) -> int:
        """What a process of it can come to have: by a set-uid program, unless that is forbidden."""
        return self.permitted if self.no_new_privileges else self.bounding | self.permitted

    @property
    def fixed(self) -> bool:
        """No process of it can become another user."""
        return self.no_new_privileges and self.identity.uid != 0 and not self.permitted & _SETUID


class Images:
    """The directory of CRIU's images, of which every file is one that we have made."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        return sorted(os.listdir(self._directory))

    def load(self, name: str) -> bytes:
        """MalformedImage if it is missing or too large."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(f"{self._directory}/{name}", flags)
        except FileNotFoundError:
            raise MalformedImage(f"{name} is missing") from None
        with open(fd, "rb") as file:
            data = file.read(_MOST + 1)
        if len(data) > _MOST:
            raise MalformedImage(f"{name} has more than {_MOST} bytes")
        return data

    def save(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(f"{self._directory}/{name}", flags, 0o600), "wb") as file:
            file.write(data)

    def head(self, name: str) -> bytes:
        """Its beginning."""
        with open(f"{self._directory}/{name}", "rb") as file:
            return file.read(1 << 16)


@dataclass(frozen=True, slots=True)
class Outside:
    """What processes have open whose other end is elsewhere, by the names by which CRIU knows it.

    pipes: as `files.stdio` answers; terminal: as `terminals.confine` does.
    """

    pipes: dict[int, str]
    terminal: str


def confine(images: Images, bounds: Bounds, may_open: MayOpen, stays: Stays) -> Outside:
    """Checks all images and rewrites those of processes.

    may_open: whether the container's user may open a path of it; stays: whether a path is one of
    it at all. Raises Refused, MalformedImage.
    """
    names = images.names()
    inventory = _inventory(images, bounds)
    root = read("pstree", images.load("pstree.img"))
    if not root:
        raise MalformedImage("pstree.img has no process")
    first_pid = root[0].number(1)
    _check_namespaces(images, names, inventory, first_pid)
    _check_ipc(images, inventory, first_pid, allowed=bounds.ipc)
    _check_pids(images, names, inventory, first_pid, bounds.pids)
    _check_ghosts(images, names)
    opened = read("files", images.load("files.img"))
    raw = bool(bounds.most & _NET_RAW)
    if name := places.strayed(images, opened, stays):
        raise Refused(f"a file {name}, which may lead out of the container")
    may = may_open if bounds.fixed else None
    files.check(opened, raw_sockets=raw, may_open=may, user=bounds.identity.uid)
    problem = sockets.confine(opened, bounds.most, sockets.network(), may)
    if problem:
        raise Refused(problem)
    images.save("files.img", write("files", opened))
    filters = _filters(images, names, bounds)
    for name, pid in _tasks(names):
        _confine_task(images, name, bounds, filters, first=pid == first_pid)
    ids = first("ids", images.load(f"ids-{first_pid}.img"))
    pipes = files.stdio(images.load(f"fdinfo-{ids.number(2)}.img"), opened)
    if pipes and bounds.terminal:
        raise Refused("a process with pipes to somebody else, where the container has a terminal")
    return Outside(pipes, terminals.confine(images, bounds))


def _tasks(names: list[str]) -> Iterator[tuple[str, int]]:
    for name in names:
        found = _TASK.fullmatch(name)
        if found:
            yield name, int(found[1])


def _inventory(images: Images, bounds: Bounds) -> Message:
    (inventory,) = _only(read("inventory", images.load("inventory.img")))
    if inventory.number(1) != _VERSION:
        raise MalformedImage(f"images of format {inventory.number(1)}; {_VERSION} is known")
    inventory.drop(_LSM_TYPE, _PLUGINS)
    inventory.add(_LSM_TYPE, _APPARMOR if bounds.label else 0)
    images.save("inventory.img", write("inventory", [inventory]))
    return inventory


def _only(found: list[Message]) -> list[Message]:
    if len(found) != 1:
        raise MalformedImage(f"{len(found)} entries where one should be")
    return found


def _check_namespaces(images: Images, names: list[str], inventory: Message, first_pid: int) -> None:
    """All processes are in the same ones; those that are the pod's are CRIU's own.

    So is the user namespace from here on, whatever it was: who users are, the images say as these
    see themselves.
    """
    outside = inventory.message(3)
    root = first("ids", images.load(f"ids-{first_pid}.img"))
    for name in names:
        if not name.startswith("ids-"):
            continue
        (ids,) = _only(read("ids", images.load(name)))
        for kind, field in _SAME.items():
            if ids.number(field, 0) != outside.number(field, 0):
                raise Refused(f"a process in a {kind} namespace of its own")
        for kind, field in _OWN.items():
            if ids.number(field, 0) != root.number(field, 0):
                raise Refused(f"processes in two {kind} namespaces")
        ids.set(_OWN["user"], outside.number(_OWN["user"], 0))
        images.save(name, write("ids", [ids]))


def _check_ipc(images: Images, inventory: Message, first_pid: int, *, allowed: bool) -> None:
    """The pod's IPC namespace is CRIU's own, or one that it makes."""
    ids = first("ids", images.load(f"ids-{first_pid}.img"))
    number = ids.number(_OWN["IPC"], 0)
    if number == inventory.message(3).number(_OWN["IPC"], 0):
        return
    if not allowed:
        raise Refused(
            "System V IPC of its pod, which CRIU can make in a new namespace only: this pod has "
            "the node's, or a container that was started before this one: start this one first"
        )
    ipc.confine(images, number)


def _check_pids(
    images: Images, names: list[str], inventory: Message, first_pid: int, wanted: str
) -> None:
    """The pid namespace is of the kind that the pod has."""
    ids = first("ids", images.load(f"ids-{first_pid}.img"))
    found = "pod" if any(name.startswith("pidns-") for name in names) else "own"
    if ids.number(_OWN["pid"], 0) == inventory.message(3).number(_OWN["pid"], 0):
        found = "node"
    if found != wanted:
        raise Refused(
            f"processes in a pid namespace of kind {found!r}, where {wanted!r} is asked for"
        )


def _check_ghosts(images: Images, names: list[str]) -> None:
    """Files that were open and deleted: they are made anew, devices must not be.

    Or they have another name meanwhile (LINKED), which CRIU takes away as root, whoever may not:
    our checkpoints have none. Without a type a bit says which.
    """
    remaps = read("remap-fpath", images.load(_REMAPS)) if _REMAPS in names else []
    for remap in remaps:
        kind = remap.number(3) if remap.has(3) else bool(remap.number(2) & _GHOST_BIT)
        if kind == _LINKED:
            raise Refused("a deleted file that has another name")
    for name in names:
        if name.startswith("ghost-file-"):
            mode = first("ghost-file", images.head(name)).number(3)
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise Refused("a deleted device that is open")


@dataclass(frozen=True, slots=True)
class _Filters:
    """numbers: of the checkpoint's filters, what they are now; base: of the container's own; -1:
    it has none."""

    numbers: tuple[int, ...]
    base: int


def _filters(images: Images, names: list[str], bounds: Bounds) -> _Filters:
    """Rewrites the seccomp image. The container's own filter is the first, and beneath all."""
    theirs: list[Message] = []
    if "seccomp.img" in names:
        (entry,) = _only(read("seccomp", images.load("seccomp.img")) or [Message.of()])
        theirs = entry.messages(1)
    if not bounds.seccomp:
        return _Filters(tuple(range(len(theirs))), -1)
    made = Message.of((1, bounds.seccomp))
    if bounds.seccomp_flags & _FILTER_FLAGS:
        made.add(3, bounds.seccomp_flags & _FILTER_FLAGS)
    beneath = [_beneath(one, len(theirs)) for one in theirs]
    _check_ends(beneath)
    kept, numbers = [made], []
    for one, below in zip(theirs, beneath, strict=True):
        if below < 0 and one.data(1) == bounds.seccomp:
            numbers.append(0)  # it has the container's own already
        else:
            numbers.append(len(kept))
            kept.append(one)
    for one, below, number in zip(theirs, beneath, numbers, strict=True):
        if number:
            one.set(2, numbers[below] if below >= 0 else 0)
    entry = Message.of(*((1, one.encode()) for one in kept))
    images.save("seccomp.img", write("seccomp", [entry]))
    return _Filters(tuple(numbers), 0)


def _beneath(one: Message, count: int) -> int:
    """The filter upon which one was put; -1: none."""
    below = one.number(2) if one.has(2) else -1
    if below >= count:
        raise MalformedImage("a seccomp filter upon one that is not there")
    return below


def _check_ends(beneath: list[int]) -> None:
    """CRIU follows the chains, and would not come back from a ring."""
    sound: set[int] = set()
    for start in range(len(beneath)):
        path: list[int] = []
        at = start
        while at >= 0 and at not in sound:
            if at in path:
                raise MalformedImage("seccomp filters in a ring")
            path.append(at)
            at = beneath[at]
        sound.update(path)


def _confine_task(
    images: Images, name: str, bounds: Bounds, filters: _Filters, *, first: bool
) -> None:
    """One thread: a process's first has the limits of all."""
    (core,) = _only(read("core", images.load(name)))
    tc, thread = core.message(_TC), core.message(_THREAD)
    if core.has(_TC):
        tc.drop(_LOGINUID, _OOM_SCORE, _OLD_MODE, _OLD_FILTER)
        tc.set(_RLIMITS, _limited(tc.message(_RLIMITS), dict(bounds.limits)))
        core.set(_TC, tc)
    if core.has(_THREAD):
        _check_schedule(thread, bounds)
        _filter(thread, filters)
        if first:
            thread.set(_DEATH_SIGNAL, _SIGKILL)
        thread.set(_CREDS, _creds(thread, bounds))
        core.set(_THREAD, thread)
    elif not core.has(_TC) or tc.number(_STATE) not in (_DEAD, _ZOMBIE):
        raise MalformedImage(f"{name}: a process that lives, and nobody knows as whom")
    images.save(name, write("core", [core]))


def _limited(rlimits: Message, most: dict[int, int]) -> Message:
    """Resource limits, none above the container's. They come in the order of their numbers."""
    made = Message([])
    for resource, one in enumerate(rlimits.messages(1)):
        top = most.get(resource, 0)
        soft, hard = (min(one.number(field, bits=64), top) for field in (1, 2))
        made.add(1, Message.of((1, soft), (2, hard)).encode())
    return made


def _check_schedule(thread: Message, bounds: Bounds) -> None:
    nice = thread.number(_NICE, 0)  # zigzag: odd numbers are the negative ones
    policy = thread.number(_POLICY, 0)
    if (policy not in _NORMAL_POLICIES or nice & 1) and not bounds.most & _SYS_NICE:
        raise Refused("a scheduling priority that takes CAP_SYS_NICE")


def _filter(thread: Message, filters: _Filters) -> None:
    mode = thread.number(_MODE, 0)
    number = filters.base
    if mode == _FILTER:
        which = thread.number(_WHICH, 0)
        if which >= len(filters.numbers):
            raise MalformedImage("a thread with a seccomp filter that is not there")
        number = filters.numbers[which]
    if number >= 0:
        thread.set(_MODE, _FILTER)
        thread.set(_WHICH, number)


def _creds(thread: Message, bounds: Bounds) -> Message:
    if not thread.has(_CREDS):
        raise MalformedImage("a thread of which nobody knows whose it is")
    creds = thread.message(_CREDS)
    for kind, field in _SETS.items():
        held = _mask(creds.numbers(field))
        extra = held & ~bounds.most
        if extra:
            listed = ", ".join(capabilities.names(extra)) or f"capabilities {extra:#x}"
            raise Refused(f"a process with {listed} ({kind}), which this container is not to have")
    if bounds.fixed:
        _check_users(creds, bounds.identity)
    creds.drop(_LSM, _SOCKET_LSM, _LSM_DATA)
    if bounds.label:
        creds.add(_LSM, bounds.label.encode())
    if bounds.no_new_privileges:
        creds.set(_NO_NEW_PRIVS, 1)
    return creds


def _mask(words: list[int]) -> int:
    """Capabilities come as numbers of 32 bits, the lowest first."""
    return sum(word << 32 * index for index, word in enumerate(words))


def _check_users(creds: Message, identity: Identity) -> None:
    users = {creds.number(field) for field in _USERS}
    groups = {creds.number(field) for field in _GROUP_IDS}
    others = set(creds.numbers(_GROUPS)) - {identity.gid, *identity.groups}
    if users != {identity.uid} or groups != {identity.gid} or others:
        raise Refused(
            f"a process of user {sorted(users)} and group {sorted(groups | others)}, where this "
            f"container's can only be {identity.uid} and {identity.gid}"
        )
