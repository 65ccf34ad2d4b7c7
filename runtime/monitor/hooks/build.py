"""What init does more, and otherwise, for a container with hooks. Runs in init; see bundle.py.

    node's mounts ──copy──▶ outside: + the bundle, with the root file system and nothing in it
                              │        prestart, createRuntime, poststart, poststop run here
                              └─copy─▶ inside: what is mounted in the root from now on is only here
                                         createContainer runs here, then the root is pivoted to

Without hooks the second is a copy of the pod's two mounts, and the first does not exist. Both go
with the last who is in them: init is, and the monitor holds the first.

In a pod with a user namespace that one owns the second: createContainer hooks are its root, and may
mount there. What was copied into it is locked (mount_namespaces(7)), so the root is not, but is
mounted there anew: init has to pivot to it. What init mounts is not locked either until it leaves,
by one copy more, which a privileged init makes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from runtime.init import capabilities, credentials, namespaces, steps
from runtime.init.context import Context
from runtime.init.steps import Step
from runtime.linux import fds, mount
from runtime.linux.mount import AT_FDCWD, Propagation
from runtime.linux.namespace import Clone, setns, unshare
from runtime.linux.process import clone3
from runtime.monitor.oci import bundle
from runtime.monitor.oci.plan import CONFIG, ROOTFS, SHM, Json, complete

_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATED, READY = "created", "ready"  # where init waits for hooks


class Build:
    """load_config: config.json, not final; place: of the bundle; namespaces: type -> path of those
    that the pod's containers share."""

    def __init__(
        self, load_config: Callable[[], str], place: str, namespaces: Mapping[str, str]
    ) -> None:
        self._load_config = load_config
        self._place = place
        self._namespaces = namespaces
        self._outside_fd = -1

    def sequence(self, listed: Sequence[Step] = steps.CONTAINER) -> tuple[Step, ...]:
        """THE list, or another, with a step replaced and up to two more."""
        after = {"cgroup mounts": ("hooks", self.created), "ready": ("start hooks", self.ready)}
        instead = {"mount namespace": self.enter, "user namespace": self.leave}
        made: list[Step] = []
        for name, step in listed:
            made.append((name, instead.get(name, step)))
            if name in after:
                made.append(after[name])
        return tuple(made)

    def enter(self, context: Context) -> None:
        """Instead of a copy of the pod's mounts: two of the node's, both with the bundle."""
        shm_fd = bundle.of_pod(context.surroundings.mount_ns_fd)
        if context.surroundings.sheltered:
            context.proc_fd = bundle.of_pod(context.surroundings.mount_ns_fd, bundle.PROC)
        bundle_fd = bundle.assemble(self._place, (), context.root_fd, shm_fd)
        bundle.write(bundle_fd, CONFIG, self._config(context))
        self._outside_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        users = context.process.user_map
        if users is None:
            unshare(Clone.NEWNS)
            slash = os.open("/", os.O_PATH | os.O_CLOEXEC)
            mount.mount_setattr(slash, propagation=int(Propagation.SLAVE), recursive=True)
            os.close(slash)
        else:
            os.chown(CONFIG, users.uid, users.gid, dir_fd=bundle_fd)
            self._enter_theirs(context)
        context.root_fd = os.open(f"{self._place}/{ROOTFS}", _ROOT)
        context.shm = os.fsencode(f"{self._place}/{SHM}")
        namespaces.aim(context)
        credentials.make_files_theirs(context)

    def _enter_theirs(self, context: Context) -> None:
        """Instead of a copy of our own, one that the user namespace owns; a child makes it."""
        root = mount.clone_tree(context.root_fd)
        ours, theirs = fds.pair()
        pid, _ = clone3(0)
        if pid == 0:
            credentials.become_root_of(context.user_ns_fd)
            unshare(Clone.NEWNS)
            namespace_fd = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            fds.send(theirs, {}, (namespace_fd,))
            os._exit(0)
        theirs.close()
        received = fds.receive(ours)
        os.waitpid(pid, 0)
        if received is None:
            raise OSError(errno.EPERM, "no mount namespace in the pod's user namespace")
        setns(received[1][0], Clone.NEWNS)
        mount.move_mount(root, AT_FDCWD, os.fsencode(f"{self._place}/{ROOTFS}"))

    def leave(self, context: Context) -> None:
        """Before the step that it stands for: see above."""
        if context.user_ns_fd >= 0:
            unshare(Clone.NEWNS)
        credentials.enter_user_namespace(context)

    def created(self, context: Context) -> None:
        """Everything is mounted, and nothing made read-only yet."""
        context.report.pause(CREATED, (self._outside_fd,))

    def ready(self, context: Context) -> None:
        """We are what the program will be."""
        context.report.pause(READY)

    def _config(self, context: Context) -> Json:
        config = cast(Json, json.loads(self._load_config()))
        held = context.ourselves.held
        complete(
            config,
            context.identity,
            namespaces=self._namespaces,
            hostname=os.uname().nodename,
            held=capabilities.names(held.permitted & held.bounding),
        )
        return config
