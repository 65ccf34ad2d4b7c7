"""Mounts by descriptor: the mount API of Linux 5.2 and later, and the little we need of the old.

Every path argument is bytes. A `mount` is the descriptor of a mount, as `new_mount` and
`clone_tree` answer it: detached until `move_mount` attaches it, then the same descriptor names the
attached one.
See fsopen(2), open_tree(2), move_mount(2), mount_setattr(2).
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct

from runtime.linux.libc import Integer, Size, Text, Unsigned, UnsignedLong, declare, syscall


class MountAttr(enum.IntFlag):
    """MOUNT_ATTR_* of linux/mount.h."""

    RDONLY = 0x00000001
    NOSUID = 0x00000002
    NODEV = 0x00000004
    NOEXEC = 0x00000008
    ATIME = 0x00000070  # MOUNT_ATTR__ATIME: the field, of which the next three are values
    RELATIME = 0x00000000
    NOATIME = 0x00000010
    STRICTATIME = 0x00000020
    NODIRATIME = 0x00000080
    IDMAP = 0x00100000
    NOSYMFOLLOW = 0x00200000


class Propagation(enum.IntEnum):
    """MS_* of linux/mount.h, the propagation types."""

    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20


# What statfs(2) answers as f_type.
PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1

AT_FDCWD = -100
MNT_DETACH = 2

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6
_MAX_VALUE = 255  # fsconfig(2) refuses longer strings

_MOUNT_ATTR = struct.Struct("4Q")  # attr_set, attr_clr, propagation, userns_fd
_STATFS = struct.Struct("q")  # f_type comes first

_fsopen = syscall("fsopen", 430, Text, Unsigned)
_fsconfig = syscall("fsconfig", 431, Integer, Unsigned, Text, Text, Integer)
_fsmount = syscall("fsmount", 432, Integer, Unsigned, Unsigned)
_open_tree = syscall("open_tree", 428, Integer, Text, Unsigned)
_move_mount = syscall("move_mount", 429, Integer, Text, Integer, Text, Unsigned)
_mount_setattr = syscall("mount_setattr", 442, Integer, Text, Unsigned, Text, Size)
_mount = declare("mount", Text, Text, Text, UnsignedLong, Text)
_umount2 = declare("umount2", Text, Integer, blocking=True)
_pivot_root = declare("pivot_root", Text, Text)
_fstatfs = declare("fstatfs", Integer, Text)


def fsopen(kind: bytes) -> int:
    """A descriptor that configures a new file system of this kind."""
    return _fsopen(kind, _FSOPEN_CLOEXEC)


def fsconfig_flag(context: int, key: bytes) -> None:
    """Sets a parameter that has no value."""
    _fsconfig(context, _SET_FLAG, key, None, 0)


def fits(value: bytes) -> bool:
    """Whether fsconfig(2) takes this string."""
    return len(value) <= _MAX_VALUE


def complaints(context: int) -> str:
    """What the file system said about our parameters ("overlay: Unknown parameter …"), or ""."""
    said: list[bytes] = []
    try:
        while len(said) < 16:
            said.append(os.read(context, 512).rstrip())
    except OSError:  # ENODATA: the end
        pass
    return "; ".join(repr(line[2:])[2:-1] for line in said)


def new_mount(kind: bytes, parameters: tuple[tuple[bytes, bytes], ...], attributes: int = 0) -> int:
    """fsopen, fsconfig and fsmount in one: a detached mount. An empty value means a flag.

    Its OSError carries what the file system said.
    """
    context = fsopen(kind)
    try:
        for key, value in parameters:
            if value:
                _fsconfig(context, _SET_STRING, key, value, 0)
            else:
                _fsconfig(context, _SET_FLAG, key, None, 0)
        _fsconfig(context, _CREATE, None, None, 0)
        return _fsmount(context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        said = complaints(context)
        raise OSError(error.errno, said or error.strerror) from error
    finally:
        os.close(context)


def labelled(label: str) -> tuple[tuple[bytes, bytes], ...]:
    """The parameters by which all files of a new file system have this SELinux label; "": none."""
    return ((b"context", label.encode()),) if label else ()


def clone_tree(directory: int, path: bytes = b"", *, recursive: bool = False) -> int:
    """A detached clone of the mount at `path` (empty: of `directory`): a bind mount to be."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    if recursive:
        flags |= _AT_RECURSIVE
    return _open_tree(directory, path, flags if path else flags | _AT_EMPTY_PATH)


def move_mount(mount: int, target: int, path: bytes = b"") -> None:
    """Attaches a detached mount on `path` (empty: on what `target` names). Follows no symlink."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _move_mount(mount, b"", target, path, flags if path else flags | _MOVE_MOUNT_T_EMPTY_PATH)


def mount_setattr(
    mount: int,
    *,
    attributes: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    user_ns_fd: int = 0,
) -> None:
    """Changes attributes (of MountAttr) and propagation of a mount, or of its whole tree.

    user_ns_fd: for IDMAP, and only of a mount that was never attached.
    """
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE if recursive else _AT_EMPTY_PATH
    packed = _MOUNT_ATTR.pack(attributes, clear, propagation, user_ns_fd)
    _mount_setattr(mount, b"", flags, packed, _MOUNT_ATTR.size)


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes) -> None:
    """mount(2), for what fsconfig can't say on an old kernel."""
    _mount(source, target, kind, flags, options)


def pivot_root(new: bytes, old: bytes) -> None:
    """Makes the mount at `new` the root of this mount namespace, and hangs the old one at `old`."""
    _pivot_root(new, old)


def umount(target: bytes, *, lazy: bool = False) -> None:
    """Takes a mount away; lazy: at once, even when it is busy."""
    _umount2(target, MNT_DETACH if lazy else 0)


def file_system_type(fd: int) -> int:
    """The magic number (PROC_SUPER_MAGIC …) of the file system on which an open file lies."""
    buffer = ctypes.create_string_buffer(128)  # struct statfs has 120 bytes
    _fstatfs(fd, buffer)
    return int(_STATFS.unpack_from(buffer)[0])
