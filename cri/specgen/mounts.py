"""What a container sees mounted: the usual file systems, the pod's files, the request's mounts."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from cri.specgen.namespaces import id_mappings
from runtime.spec import IdMapping, Mount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cri.specgen.subject import Subject

PROC = Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev"))
DEV = Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k"))
PTS = Mount(
    "/dev/pts",
    "devpts",
    "devpts",
    ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
)
MQUEUE = Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev"))
POD_SHM = Mount("/dev/shm", "tmpfs", "pod-shm", ("nosuid", "noexec", "nodev"))  # noqa: S108 - theirs
NODE_SHM = Mount("/dev/shm", "bind", "/dev/shm", ("rbind", "rprivate", "rw"))  # noqa: S108 - theirs
SYS = Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev"))
CGROUP = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime"))

IMAGE = "image"  # the type of a mount whose layers are an image's
POD_FILES = ("hostname", "hosts", "resolv.conf")

_PROPAGATION = {
    api.PROPAGATION_PRIVATE: "rprivate",
    api.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api.PROPAGATION_BIDIRECTIONAL: "rshared",
}
_EXTRA_OPTIONS = frozenset(("noexec", "nodev", "nosuid"))


def mounts(subject: Subject) -> tuple[Mount, ...]:
    """In the order in which they are to be made: nothing covers what was mounted below it."""
    wanted = _with_layers(requested(subject.config), subject.facts.image_layers)
    _check_recursive(subject)
    _check_user_namespace(subject, wanted)
    taken = {mount.destination for mount in wanted}
    wanted += [mount for mount in _pod_files(subject) if mount.destination not in taken]
    if subject.config.tty and "/dev" in taken and PTS.destination not in taken:
        wanted.append(PTS)  # the node's /dev, say, but a terminal of its own
    wanted.sort(key=lambda mount: mount.destination.count("/"))
    usual = (
        mount
        for mount in _usual(subject)
        if mount.destination not in taken
        and not ("/dev" in taken and mount.destination.startswith("/dev/"))
    )
    made = [*usual, *wanted]
    ours = {mount.destination for mount in made}
    more = (mount for mount in subject.handler.base.mounts if mount.destination not in ours)
    return (*made[: len(made) - len(wanted)], *more, *wanted)


def requested(config: api.ContainerConfig) -> list[Mount]:
    """The request's own, in its order. Raises InvalidRequest."""
    return [_requested(mount, index) for index, mount in enumerate(config.mounts)]


def _with_layers(wanted: list[Mount], image_layers: tuple[tuple[str, ...], ...]) -> list[Mount]:
    layers = iter(image_layers)
    return [
        replace(mount, layers=next(layers)) if mount.type == IMAGE else mount for mount in wanted
    ]


def _usual(subject: Subject) -> tuple[Mount, ...]:
    writable = subject.security.privileged and not subject.handler.config.readonly_sysfs
    mode = "rw" if writable else "ro"
    options = subject.sandbox.linux.security_context.namespace_options
    return (
        PROC,
        DEV,
        PTS,
        NODE_SHM if options.ipc == api.NODE else POD_SHM,
        MQUEUE,
        Mount(SYS.destination, SYS.type, SYS.source, (*SYS.options, mode)),
        Mount(CGROUP.destination, CGROUP.type, CGROUP.source, (*CGROUP.options, mode)),
    )


def _pod_files(subject: Subject) -> list[Mount]:
    """The pod's own /etc files: writable, unless the root file system is not."""
    mode = "ro" if subject.security.readonly_rootfs else "rw"
    return [
        Mount(f"/etc/{name}", "bind", f"{subject.files}/{name}", ("rbind", "rprivate", mode))
        for name in POD_FILES
    ]


def _requested(mount: api.Mount, index: int) -> Mount:
    field = f"config.mounts[{index}]"
    if not mount.container_path:
        raise InvalidRequest(f"{field}.container_path", "empty: where should it be mounted?")
    if mount.image.image:
        return _image(mount, field)
    if "\0" in mount.host_path:
        raise InvalidRequest(f"{field}.host_path", f"{mount.host_path!r} contains a NUL byte")
    if not mount.host_path.startswith("/"):
        raise InvalidRequest(f"{field}.host_path", f"{mount.host_path!r} is not absolute")
    if mount.propagation not in _PROPAGATION:
        raise InvalidRequest(f"{field}.propagation", f"{mount.propagation} is not known")
    options = ("rbind", _PROPAGATION[mount.propagation], *_mode(mount, field))
    return Mount(
        destination=destination(mount.container_path),
        type="bind",
        source=mount.host_path,
        options=(*options, *_extra(mount, field)),
        uid_mappings=_ids(mount.uidMappings),
        gid_mappings=_ids(mount.gidMappings),
    )


def _image(mount: api.Mount, field: str) -> Mount:
    """A volume that is an image: KEP-4639. Its layers come later."""
    if mount.host_path:
        raise InvalidRequest(f"{field}.host_path", "given, though an image is to be mounted")
    if not mount.readonly:
        raise InvalidRequest(f"{field}.readonly", "false: images are mounted read-only")
    if mount.propagation != api.PROPAGATION_PRIVATE:
        raise InvalidRequest(f"{field}.propagation", "an image has no mounts to propagate")
    path = mount.image_sub_path
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidRequest(f"{field}.image_sub_path", f"{path!r} is no path in an image")
    return Mount(
        destination=destination(mount.container_path),
        type=IMAGE,
        source="" if posixpath.normpath(path) == "." else posixpath.normpath(path),
        options=("ro", "nosuid", "nodev", *_extra(mount, field)),
    )


def destination(path: str) -> str:
    """A container path, tidy and from the root."""
    return posixpath.normpath("/" + path).replace("//", "/", 1)


def _mode(mount: api.Mount, field: str) -> tuple[str, ...]:
    """Never "rw", which clears the flag: what the node has mounted read-only stays read-only."""
    if not mount.recursive_read_only:
        return ("ro",) if mount.readonly else ()
    if not mount.readonly:
        raise InvalidRequest(
            f"{field}.recursive_read_only", "only a read-only mount can be so: set readonly as well"
        )
    if mount.propagation != api.PROPAGATION_PRIVATE:
        name = api.MountPropagation.Name(mount.propagation)
        raise InvalidRequest(
            f"{field}.recursive_read_only", f"needs PROPAGATION_PRIVATE, not {name}"
        )
    return ("rro",)


def _check_recursive(subject: Subject) -> None:
    """What the handler would pass over must not be missing silently."""
    if subject.handler.recursive_read_only:
        return
    for index, mount in enumerate(subject.config.mounts):
        if mount.recursive_read_only:
            raise InvalidRequest(
                f"config.mounts[{index}].recursive_read_only",
                f"the runtime handler {subject.handler.name!r} doesn't know such mounts: its "
                "program does not list rro in its features",
            )


def _extra(mount: api.Mount, field: str) -> tuple[str, ...]:
    for option in mount.mount_options:
        if option not in _EXTRA_OPTIONS:
            known = ", ".join(sorted(_EXTRA_OPTIONS))
            raise InvalidRequest(f"{field}.mount_options", f"{option!r} is none of {known}")
    return tuple(mount.mount_options)


def _check_user_namespace(subject: Subject, wanted: Sequence[Mount]) -> None:
    """Ids are mapped as the pod's are; and no mount leaves a user namespace for the node."""
    pod = id_mappings(subject.sandbox.linux.security_context.namespace_options)
    for index, mount in enumerate(wanted):
        field = f"config.mounts[{index}]"
        mapped = (mount.uid_mappings, mount.gid_mappings)
        if mapped not in (((), ()), pod):
            raise InvalidRequest(
                f"{field}.uidMappings, gidMappings", "must be those of the pod's user namespace"
            )
        if pod != ((), ()) and "rshared" in mount.options:
            raise InvalidRequest(
                f"{field}.propagation",
                "PROPAGATION_BIDIRECTIONAL: mounts that are made in a user namespace can't reach "
                "the node; use PROPAGATION_HOST_TO_CONTAINER, or hostUsers: true",
            )


def _ids(mappings: Sequence[api.IDMapping]) -> tuple[IdMapping, ...]:
    return tuple(IdMapping(item.container_id, item.host_id, item.length) for item in mappings)
