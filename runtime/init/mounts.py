"""Mounts below the root, each made apart and then moved to its place, by descriptor."""

from __future__ import annotations

import errno
import os
import stat

from runtime.init import devices, idmap, namespaces, rootfs
from runtime.init.context import Context
from runtime.init.values import MountKind, MountStep, Origin
from runtime.linux import mount, resolve
from runtime.linux.mount import AT_FDCWD, PROC_SUPER_MAGIC, MountAttr

_KINDS_DIFFER = "a directory can only be mounted on a directory, a file only on a file"
_RDONLY = int(MountAttr.RDONLY)
_MS_FLAGS = 0xF  # ro, nosuid, nodev, noexec: MS_* and MOUNT_ATTR_* agree in these
_FROM_NODE = (MountKind.BIND, MountKind.IMAGE)
_LABELLED = ("tmpfs", "devpts")  # what is made for the container alone, and has files of its own
_DIRECTORY = resolve.O_PATH | os.O_DIRECTORY


def open_sources(context: Context) -> None:
    """Bind mounts, cloned in the node's mount namespace, where their paths mean something."""
    context.sources = [
        _open_source(context, step) if step.kind in _FROM_NODE else -1
        for step in context.plan.mounts
    ]


def _open_image(context: Context, step: MountStep) -> int:
    fd = rootfs.image(step.layers, context.user_ns_fd, context.plan.root.mount_label)
    mount.mount_setattr(fd, attributes=step.attributes.set, propagation=step.propagation)
    return fd


def _open_source(context: Context, step: MountStep) -> int:
    if step.kind is MountKind.IMAGE:
        return _open_image(context, step)
    try:
        fd = mount.clone_tree(AT_FDCWD, os.fsencode(step.source), recursive=step.recursive)
    except OSError as error:
        what = "does not exist on the node" if error.errno == errno.ENOENT else "can't be opened"
        raise OSError(error.errno, f"{_names(step)}: the source {what}") from None
    if step.origin is not Origin.ANY:
        _check_origin(step)
    _set_attributes(step, fd)
    if step.mapped:
        try:
            idmap.apply(fd, step.source, context.user_ns_fd, recursive=step.recursive)
        except OSError as error:
            raise OSError(error.errno, f"{_names(step)}: {error.strerror}") from None
    return fd


def _names(step: MountStep) -> str:
    return f'mount "{step.source}" on "{step.destination}" in the container'


def _set_attributes(step: MountStep, fd: int) -> None:
    own, tree = step.attributes, step.tree
    if not step.recursive:  # a single mount: everything at once
        mount.mount_setattr(
            fd,
            attributes=own.set | tree.set,
            clear=own.clear | tree.clear,
            propagation=step.propagation,
        )
        return
    if step.propagation_recursive or tree:
        propagation = step.propagation if step.propagation_recursive else 0
        mount.mount_setattr(
            fd, attributes=tree.set, clear=tree.clear, propagation=propagation, recursive=True
        )
    if own or (step.propagation and not step.propagation_recursive):
        propagation = 0 if step.propagation_recursive else step.propagation
        mount.mount_setattr(fd, attributes=own.set, clear=own.clear, propagation=propagation)


def _check_origin(step: MountStep) -> None:
    """Propagation to or from a mount that is private would silently never happen."""
    fd = os.open(os.fsencode(step.source), resolve.O_PATH)
    fields = _propagation_fields(fd)
    os.close(fd)
    wanted = (b"shared:",) if step.origin is Origin.SHARED else (b"shared:", b"master:")
    if not any(field.startswith(wanted) for field in fields):
        kind = "shared" if step.origin is Origin.SHARED else "shared or slave"
        raise OSError(
            errno.EINVAL,
            f"{_names(step)}: the source lies on a mount of the node that is not {kind}; "
            f"`mount --make-rshared` there, or choose the propagation None",
        )


def _propagation_fields(fd: int) -> list[bytes]:
    """The optional fields of mountinfo ("shared:7", "master:3") of the mount of a file."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as fdinfo:
        number = next(line.split()[1] for line in fdinfo if line.startswith(b"mnt_id:"))
    with open("/proc/self/mountinfo", "rb") as mountinfo:
        for line in mountinfo:
            fields = line.split(b" ")
            if fields[0] == number:
                return fields[6 : fields.index(b"-")]
    return []


def attach(context: Context) -> None:
    """All mounts of the plan, in its order."""
    for step, source in zip(context.plan.mounts, context.sources, strict=True):
        try:
            _attach(context, step, source)
        except OSError as error:
            raise OSError(error.errno, f"{step.describe()}: {error.strerror}") from None


def _attach(context: Context, step: MountStep, source: int) -> None:
    fd = source if source >= 0 else _make(context, step)
    if step.layers and step.source:
        fd = _part(fd, step.source, context.shm)
    if _is_prepared(context, step):
        mount.move_mount(fd, context.dev_fd, step.destination[5:].encode())
        return
    target = _target(context, step, fd)
    try:
        mount.move_mount(fd, target)
    except OSError as error:
        if stat.S_ISDIR(os.fstat(fd).st_mode) != stat.S_ISDIR(os.fstat(target).st_mode):
            raise OSError(error.errno, _KINDS_DIFFER) from None
        raise
    if step.late_readonly:
        context.late_readonly = (*context.late_readonly, fd)


def _part(image: int, path: str, stage: bytes) -> int:
    """What lies at a path in an image, its links resolved in there, as a mount.

    The image is attached for a moment at `stage`, over the pod's shared memory in our copy of the
    pod's mounts: of a detached one no kernel before Linux 6.15 clones anything.
    """
    mount.move_mount(image, AT_FDCWD, stage)
    try:
        found = resolve.open_in_root(image, os.fsencode(path))
        part = mount.clone_tree(found)
        os.close(found)
    except OSError as error:
        raise OSError(
            error.errno, f'"{path}" in the image: {os.strerror(error.errno or 0)}'
        ) from None
    finally:
        mount.umount(stage, lazy=True)
    return part


def _is_prepared(context: Context, step: MountStep) -> bool:
    """Whether the destination is a directory that we have just made in our own /dev."""
    dev, path = context.plan.dev, step.destination
    return dev.own and context.dev_fd >= 0 and path[:5] == "/dev/" and path[5:] in dev.directories


def _make(context: Context, step: MountStep) -> int:
    if step.kind is MountKind.SHM:
        fd = mount.clone_tree(AT_FDCWD, context.shm)
        if step.attributes:
            mount.mount_setattr(fd, attributes=step.attributes.set)
        return fd
    parameters = tuple((key.encode(), value.encode()) for key, value in step.parameters)
    label = context.plan.root.mount_label
    if label and step.source in _LABELLED and all(key != b"context" for key, _ in parameters):
        parameters = (*parameters, *mount.labelled(label))
    if step.source == "proc" and context.surroundings.sheltered:
        fd = namespaces.procfs(context, parameters, step.attributes.set)
    else:
        fd = mount.new_mount(step.source.encode(), parameters, step.attributes.set)
    if label and step.source == "mqueue" and context.plan.own_ipc_namespace:
        _label_root(fd, label)
    if step.propagation:
        mount.mount_setattr(fd, propagation=step.propagation)
    if step.kind is MountKind.DEV:
        context.dev_fd = fd
        devices.populate(context)
    elif step.source == "devpts":
        context.pts_fd = fd
    return fd


def _label_root(fd: int, label: str) -> None:
    """Of an mqueue, which is one for all mounts in an IPC namespace: so none may have a context."""
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    os.setxattr(directory, "security.selinux", label.encode())
    os.close(directory)


def _target(context: Context, step: MountStep, fd: int) -> int:
    """What to mount on, made if missing. Never outside the root, nor inside a procfs."""
    path = os.fsencode(step.destination)
    if step.real_directory:
        return _real_directory(context.root_fd, path)
    if step.inside_proc:
        return resolve.open_in_root(context.root_fd, path, resolve=resolve.NO_SYMLINKS)
    wants_directory = step.kind not in _FROM_NODE or stat.S_ISDIR(os.fstat(fd).st_mode)
    make = resolve.mkdir_all_in_root if wants_directory else resolve.create_in_root
    try:
        target = make(context.root_fd, path)
    except OSError as error:
        raise _no_mount_point(error) from None
    if mount.file_system_type(target) == PROC_SUPER_MAGIC:
        raise OSError(errno.EPERM, "the destination leads into /proc")
    if step.destination == "/proc" and mount.file_system_type(fd) != PROC_SUPER_MAGIC:
        raise OSError(errno.EPERM, "only a procfs may be mounted at /proc")
    return target


def _no_mount_point(error: OSError) -> OSError:
    """The same errno, in words of mounts."""
    if error.errno == errno.ENOTDIR:
        return OSError(error.errno, _KINDS_DIFFER)
    if error.errno == errno.EROFS:
        return OSError(error.errno, "the mount point is missing, and can't be made")
    return error


def _real_directory(root: int, path: bytes) -> int:
    """The mount point of proc and sysfs: no link on the way (CVE-2019-19921, CVE-2023-27561)."""
    try:
        return resolve.open_in_root(root, path, _DIRECTORY, resolve=resolve.NO_SYMLINKS)
    except FileNotFoundError:
        os.close(resolve.mkdir_all_in_root(root, path))
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        text = "the image has something else than a directory there (a symbolic link?)"
        raise OSError(error.errno, text) from None
    return resolve.open_in_root(root, path, _DIRECTORY, resolve=resolve.NO_SYMLINKS)


def attach_cgroups(context: Context) -> None:
    """/sys/fs/cgroup, as seen from the cgroup namespace that we have just made."""
    plan = context.plan.cgroup_mount
    if plan is None:
        return
    target = resolve.mkdir_all_in_root(context.root_fd, os.fsencode(plan.destination))
    if not plan.hierarchies:
        mount.move_mount(mount.new_mount(b"cgroup2", (), plan.attributes), target)
        return
    parameters = ((b"mode", b"755"), *mount.labelled(context.plan.root.mount_label))
    tmpfs = mount.new_mount(b"tmpfs", parameters, plan.attributes & ~_RDONLY)
    for name, link in plan.links:
        os.symlink(link.encode(), name.encode(), dir_fd=tmpfs)
    for hierarchy in plan.hierarchies:
        os.mkdir(hierarchy.directory.encode(), 0o755, dir_fd=tmpfs)
    mount.move_mount(tmpfs, target)
    os.fchdir(tmpfs)  # ours, without a link: here paths are safe, and mount(2) is one call, not six
    for hierarchy in plan.hierarchies:
        directory = hierarchy.directory.encode()
        mount.mount(
            b"cgroup", directory, b"cgroup", plan.attributes & _MS_FLAGS, hierarchy.options.encode()
        )
    if plan.attributes & _RDONLY:
        mount.mount_setattr(tmpfs, attributes=_RDONLY)
