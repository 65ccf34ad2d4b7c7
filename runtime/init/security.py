"""Masked and read-only paths: by descriptor, so that nobody can swap what is being covered.

And the AppArmor profile, or SELinux label: asked for while /proc is still the node's, so that no
image can put something else in its place (CVE-2019-16884).
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.init.context import Context
from runtime.init.devices import require_null
from runtime.linux import mount, resolve
from runtime.linux.mount import AT_FDCWD, MountAttr

_EMPTY_DIRECTORY = ((b"nr_inodes", b"1"), (b"mode", b"755"))  # and nothing can be made in it
_RDONLY = int(MountAttr.RDONLY)
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
# Where AppArmor shares the kernel with another module the second one may be that module's.
_AT_EXEC = ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")


def confine(context: Context) -> None:
    """Has the kernel confine us from the execve on, and no step before it."""
    process = context.process
    if process.apparmor_profile:
        _request_profile(process.apparmor_profile)
    if process.selinux_label:
        _request_label(process.selinux_label)


def _request_profile(profile: str) -> None:
    path = _AT_EXEC[0] if os.path.exists(_AT_EXEC[0]) else _AT_EXEC[1]
    try:
        _write(path, b"exec " + os.fsencode(profile))
    except OSError as error:
        why = "it is not loaded" if error.errno == errno.ENOENT else "the kernel refuses it"
        raise OSError(error.errno, f'the AppArmor profile "{profile}": {why}') from None


def _request_label(label: str) -> None:
    try:
        _write(_AT_EXEC[1], os.fsencode(label))
    except OSError as error:
        if error.errno == errno.EINVAL:
            why = "the kernel does not know it"
        elif error.errno == errno.EACCES:
            why = "its policy does not let podwright ask for it"
        else:
            why = "the kernel refuses it: is SELinux off?"
        raise OSError(error.errno, f'the SELinux label "{label}": {why}') from None


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def open_null(context: Context) -> None:
    """The node's /dev/null, looked at (c 1:3) before it is ever used to mask something.

    On a read-only mount: a container's root could chmod it for the whole node otherwise.
    """
    if context.plan.masked_paths:
        context.null_fd = mount.clone_tree(AT_FDCWD, b"/dev/null")
        require_null(context.null_fd)
        mount.mount_setattr(
            context.null_fd, attributes=_RDONLY, propagation=mount.Propagation.PRIVATE
        )


def protect(context: Context) -> None:
    """linux.readonlyPaths, then linux.maskedPaths. What doesn't exist is passed over."""
    for path in context.plan.readonly_paths:
        fd = _find(context.root_fd, path)
        if fd >= 0:
            clone = mount.clone_tree(fd, recursive=True)
            mount.mount_setattr(clone, attributes=_RDONLY, recursive=True)
            mount.move_mount(clone, fd)
    covers: dict[bool, int] = {False: context.null_fd}
    used: set[bool] = set()
    for path in context.plan.masked_paths:
        fd = _find(context.root_fd, path)
        if fd >= 0:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            _cover(context, fd, covers, used, is_directory)


def _find(root: int, path: str) -> int:
    """A descriptor of the path inside the root, or -1."""
    fd = resolve.find_in_root(root, os.fsencode(path))
    if fd < 0 and -fd not in _ABSENT:
        raise OSError(-fd, f'"{path}"')
    return fd


def _cover(
    context: Context,
    fd: int,
    covers: dict[bool, int],
    used: set[bool],
    is_directory: bool,  # noqa: FBT001 - the key of covers
) -> None:
    """Mounts the null device, or an empty directory, on fd: the first time itself, then clones."""
    if is_directory not in covers:
        parameters = (*_EMPTY_DIRECTORY, *mount.labelled(context.plan.root.mount_label))
        covers[is_directory] = mount.new_mount(b"tmpfs", parameters, _RDONLY)
    cover = covers[is_directory]
    if is_directory in used:  # attached by now, so every kernel lets us clone it
        cover = mount.clone_tree(cover)
    mount.move_mount(cover, fd)
    used.add(is_directory)
