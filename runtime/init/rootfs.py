"""The root file system: made, entered, finished. Steps of `steps.py`, in the order of this file."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from runtime.errors import RuntimeFault
from runtime.init import credentials, idmap, namespaces, user_namespace
from runtime.init.context import Context
from runtime.init.values import RootPlan, UserMap
from runtime.linux import mount, resolve
from runtime.linux.fds import close_all
from runtime.linux.mount import AT_FDCWD, MountAttr
from runtime.linux.namespace import Clone, setns, unshare

_RDONLY = int(MountAttr.RDONLY)
_PAGE = 4096
_MAX = 2**32 - 2  # the largest id there is, and nobody's
_LAYER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BUILD_AT = b"/root"  # an empty directory of the pod's mount namespace: see sandbox.py


def make_root(context: Context) -> None:
    """A detached mount of the root file system, of directories in the node's namespace."""
    root = context.plan.root
    if root.lower and context.user_ns_fd >= 0:
        context.root_fd = mapped_overlay(root, context.user_ns_fd)
    elif root.lower:
        context.root_fd = overlay(root)
    else:
        context.root_fd = bind(root.path)


def bind(path: str) -> int:
    """A detached clone of what is at a path of the node."""
    try:
        fd = mount.clone_tree(AT_FDCWD, os.fsencode(path), recursive=True)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f'the root file system "{path}" is missing') from None
    mount.mount_setattr(fd, propagation=mount.Propagation.PRIVATE, recursive=True)
    return fd


def image(layers: Sequence[str], user_ns_fd: int, mount_label: str = "") -> int:
    """A detached mount of an image's layers, topmost first; user_ns_fd: -1, or whose they seem.

    An overlay that can't be made writable by anybody; with SYS_ADMIN a container could remount a
    clone of a layer, and change it for all who share it.
    """
    root = RootPlan(tuple(layers), mount_label=mount_label)
    return overlay(root) if user_ns_fd < 0 else mapped_overlay(root, user_ns_fd)


def has_path(layers: Sequence[str], path: str) -> bool:
    """Whether an image has it. True where this kernel can't tell before a container is started."""
    try:
        fd = mount.new_mount(b"overlay", _parameters(RootPlan(tuple(layers))))
    except OSError:
        return True
    try:
        found = resolve.find_in_root(fd, os.fsencode(path))
        close_all((found,))
        return found >= 0
    finally:
        os.close(fd)


def mapped_overlay(root: RootPlan, user_ns_fd: int) -> int:
    """An overlay whose lower directories belong to the users of a user namespace.

    overlayfs itself can't have its ids mapped, but it takes layers of mounts that have. One mount
    for all layers of a directory, attached nowhere.
    """
    clones: dict[str, int] = {}
    lower = []
    for path in root.lower:
        parent, name = os.path.split(path)
        if parent not in clones:
            clones[parent] = idmap.clone(parent, user_ns_fd)
        try:
            fd = os.open(name, _LAYER, dir_fd=clones[parent])
        except FileNotFoundError:
            raise OSError(errno.ENOENT, f'the layer directory "{path}" is missing') from None
        lower.append(f"/proc/self/fd/{fd}")
    if not _knows_lowerdir_plus():  # nor such layers: it would refuse them after marking `work`
        return overlay_of_attached(root, clones)
    try:
        return overlay(replace(root, lower=tuple(lower)))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return overlay_of_attached(root, clones)


def mapping_refusal(first: str, second: str) -> str:
    """Why layers in the directory of these two can't be mapped on this node; "" if they can.

    Tries it, with a namespace that is gone afterwards. For the spawner: it has one thread.
    """
    try:
        user_ns_fd = user_namespace.enter(UserMap(_MAX, _MAX, 1, 1), 0, lambda: None)
        os.close(mapped_overlay(RootPlan((first, second)), user_ns_fd))
        os.close(user_ns_fd)
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeFault as error:
        return str(error)
    return ""


def overlay_of_attached(root: RootPlan, clones: Mapping[str, int]) -> int:
    """For Linux before 6.15, which takes no layers of mounts that are attached nowhere.

    They are for a moment, over the directories that they are clones of, in a copy of the node's
    mount namespace that nobody else sees; to copy that is what makes this way slow.
    """
    node = _leave_mounts()
    own = os.fsencode(os.path.commonpath((root.upper, root.work))) if root.upper else b""
    writable = mount.clone_tree(AT_FDCWD, own) if own else -1
    for path, fd in clones.items():
        # Not a peer of the node's mount, which then had all that is mounted below.
        mount.mount_setattr(fd, propagation=mount.Propagation.PRIVATE)
        mount.move_mount(fd, AT_FDCWD, os.fsencode(path))
    if own:  # which may lie below one of them, and must not be mapped
        mount.move_mount(writable, AT_FDCWD, own)
    try:
        return overlay(root)
    finally:
        setns(node, Clone.NEWNS)
        os.close(node)


def _leave_mounts() -> int:
    """Into a copy of the node's mount namespace; answers the way back."""
    node = os.open(b"/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    unshare(Clone.NEWNS)
    slash = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
    mount.mount_setattr(slash, propagation=mount.Propagation.PRIVATE, recursive=True)
    os.close(slash)
    return node


def overlay(root: RootPlan) -> int:
    """A detached overlay of a plan's directories."""
    try:
        return mount.new_mount(b"overlay", _parameters(root))
    except OSError as error:
        for path in (*root.lower, *filter(None, (root.upper, root.work))):
            if not os.path.isdir(path):
                raise OSError(errno.ENOENT, f'the layer directory "{path}" is missing') from error
        if error.errno == errno.EINVAL and not _knows_lowerdir_plus():
            return _overlay_by_path(root)
        text = f"overlay of {len(root.lower)} layers: {error.strerror}"
        raise OSError(error.errno, text) from error


def _parameters(root: RootPlan) -> tuple[tuple[bytes, bytes], ...]:
    parameters = [(b"source", b"overlay")]
    parameters += [(b"lowerdir+", _short(path)) for path in root.lower]
    if root.upper:
        parameters += [
            (b"upperdir", _short(root.upper)),
            (b"workdir", _short(root.work)),
            (b"volatile", b""),
        ]
    return (*parameters, *mount.labelled(root.mount_label))


def _short(path: str) -> bytes:
    """The path as fsconfig takes it: what is longer than 255 bytes goes by descriptor."""
    encoded = os.fsencode(path)
    if mount.fits(encoded):
        return encoded
    return b"/proc/self/fd/%d" % os.open(encoded, os.O_PATH | os.O_CLOEXEC)


def _knows_lowerdir_plus() -> bool:
    """Linux 6.5 and later: there overlayfs looks at each parameter when it is given.

    Before, it takes any text, and complains only when it is to be made.
    """
    context = mount.fsopen(b"overlay")
    try:
        mount.fsconfig_flag(context, b"podwright-asks")
    except OSError:
        return True
    finally:
        os.close(context)
    return False


def _overlay_by_path(root: RootPlan) -> int:
    """For Linux before 6.5: mount(2), whose options are one page, with short, relative paths.

    In a copy of the node's mount namespace, where the mount can't be seen by anybody; what we take
    along is its clone. Copying that namespace is what makes this way slow.
    """
    base = os.path.commonpath([*root.lower, *filter(None, (root.upper, root.work))])
    lower = ":".join(os.path.relpath(path, base) for path in root.lower)
    options = f"lowerdir={lower}"
    if root.upper:
        upper, work = (os.path.relpath(path, base) for path in (root.upper, root.work))
        options += f",upperdir={upper},workdir={work},volatile"
    if root.mount_label:
        options += f',context="{root.mount_label}"'
    if len(options) >= _PAGE or any(sign in lower for sign in ("\\", ",")):
        text = f"{len(root.lower)} layers are too many for this kernel; Linux 6.5 takes 500"
        raise OSError(errno.E2BIG, text)
    node = _leave_mounts()
    os.chdir(base)
    target = os.fsencode(root.work or root.lower[0])
    mount.mount(b"overlay", target, b"overlay", 0, os.fsencode(options))
    fd = mount.clone_tree(AT_FDCWD, target)
    setns(node, Clone.NEWNS)
    return fd


def enter(context: Context) -> None:
    """Into a mount namespace of our own that holds nothing but the root, at /root.

    A copy of the pod's, which has two mounts, however many the node has. From here on no path of
    the node can be opened any more.
    """
    setns(context.surroundings.mount_ns_fd, Clone.NEWNS)
    unshare(Clone.NEWNS)
    mount.move_mount(context.root_fd, AT_FDCWD, _BUILD_AT)
    namespaces.aim(context)
    credentials.make_files_theirs(context)


def finish_readonly(context: Context) -> None:
    """What could not be read-only while mount points were still being made in it."""
    for fd in context.late_readonly:
        mount.mount_setattr(fd, attributes=_RDONLY)
    if context.plan.root.readonly:
        try:
            mount.mount_setattr(context.root_fd, attributes=_RDONLY)
        except OSError as error:
            raise OSError(error.errno, "the root file system can't be made read-only") from None


def pivot(context: Context) -> None:
    """The container's root becomes "/"; what we came from is gone. See pivot_root(2), NOTES."""
    os.fchdir(context.root_fd)
    mount.pivot_root(b".", b".")
    mount.umount(b".", lazy=True)
    root = context.plan.root
    if root.propagation != mount.Propagation.PRIVATE:
        mount.mount_setattr(
            context.root_fd, propagation=root.propagation, recursive=root.propagation_recursive
        )
