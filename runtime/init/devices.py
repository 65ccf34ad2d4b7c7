"""The nodes of /dev, and the container's terminal. All beside descriptors, no path is joined."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios

from runtime.init.context import Context
from runtime.init.values import Node
from runtime.linux import mount, resolve
from runtime.linux.mount import DEVPTS_SUPER_MAGIC

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_PTMX = os.makedev(5, 2)
_NULL = os.makedev(1, 3)
_DEV = "/dev/"


def make_nodes(context: Context) -> None:
    """Into the image's /dev, where /dev is no tmpfs of ours (that is filled elsewhere)."""
    dev = context.plan.dev
    if not dev.own and dev.nodes:
        context.dev_fd = resolve.mkdir_all_in_root(context.root_fd, b"/dev")
        populate(context)


def populate(context: Context) -> None:
    """Everything of the plan's Dev, into the directory context.dev_fd."""
    dev, fd = context.plan.dev, context.dev_fd
    for name in dev.directories if dev.own else ():
        os.mkdir(name.encode(), 0o755, dir_fd=fd)
    for name, link in dev.links:
        _link(fd, name.encode(), link.encode(), own=dev.own)
    user_map = context.process.user_map
    maker = (user_map.uid, user_map.gid) if user_map else (0, 0)
    for node in dev.nodes:
        if node.path.startswith(_DEV):
            _make_node(fd, node, node.path[len(_DEV) :].encode(), maker, own=dev.own)
        else:
            _make_node(context.root_fd, node, node.path.encode(), maker, own=False)


def _link(directory: int, name: bytes, link: bytes, *, own: bool) -> None:
    try:
        os.symlink(link, name, dir_fd=directory)
    except FileExistsError:
        if own:
            raise
        os.unlink(name, dir_fd=directory)
        os.symlink(link, name, dir_fd=directory)


def _make_node(
    directory: int, node: Node, name: bytes, maker: tuple[int, int], *, own: bool
) -> None:
    """maker: uid and gid of what this process makes."""
    parent = directory
    if b"/" in name:
        parent, name = resolve.parent_in_root(directory, name)
    try:
        os.mknod(name, node.mode, node.number, dir_fd=parent)
    except FileExistsError:
        if own:
            raise
        os.unlink(name, dir_fd=parent)
        os.mknod(name, node.mode, node.number, dir_fd=parent)
    except PermissionError as error:
        raise OSError(error.errno, f'device "{node.path}": the node forbids to make it') from None
    if (node.uid, node.gid) != maker:
        os.chown(name, node.uid, node.gid, dir_fd=parent, follow_symlinks=False)


def open_null(context: Context) -> int:
    """The container's own /dev/null, or an error: whatever else may lie there is not used."""
    if context.plan.dev.own and context.dev_fd >= 0:
        fd = os.open(b"null", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=context.dev_fd)
    else:
        seen = resolve.open_in_root(context.root_fd, b"/dev/null")  # looked at before it is opened
        require_null(seen)
        os.close(seen)
        fd = resolve.open_in_root(context.root_fd, b"/dev/null", os.O_RDWR | os.O_NOCTTY)
    require_null(fd)
    return fd


def require_null(fd: int) -> None:
    """CVE-2025-31133: something else in the place of /dev/null."""
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NULL:
        raise OSError(errno.EPERM, "/dev/null is not the null device")


def make_console(context: Context) -> None:
    """A terminal of the container's own devpts, its master sent to the monitor.

    By descriptor throughout (CVE-2025-52565): the peer comes from the master, not from a path.
    """
    process = context.process
    if not process.terminal:
        return
    if context.pts_fd < 0:
        context.pts_fd = resolve.open_in_root(
            context.root_fd, b"/dev/pts", resolve.O_PATH | os.O_DIRECTORY
        )
    if mount.file_system_type(context.pts_fd) != DEVPTS_SUPER_MAGIC:
        raise OSError(errno.EPERM, "/dev/pts is no devpts")
    flags = os.O_RDWR | os.O_NOCTTY
    only_here = resolve.NO_XDEV | resolve.NO_SYMLINKS
    master = resolve.open_in_root(context.pts_fd, b"ptmx", flags, resolve=only_here)
    if os.fstat(master).st_rdev != _PTMX:
        raise OSError(errno.EPERM, "/dev/pts/ptmx is no terminal multiplexer")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    peer = fcntl.ioctl(master, _TIOCGPTPEER, flags | os.O_CLOEXEC)
    if process.rows or process.columns:
        size = struct.pack("4H", process.rows, process.columns, 0, 0)
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)
    context.console_fd = peer
    context.report.console(master)
    os.close(master)


def mount_console(context: Context) -> None:
    """/dev/console is the terminal; for a container's first process only."""
    if context.console_fd < 0 or context.dev_fd < 0:
        return
    flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW
    os.close(resolve.open_in_root(context.dev_fd, b"console", flags, resolve=resolve.NO_SYMLINKS))
    target = resolve.open_in_root(context.dev_fd, b"console", resolve=resolve.NO_SYMLINKS)
    mount.move_mount(mount.clone_tree(context.console_fd), target)
    os.close(target)
