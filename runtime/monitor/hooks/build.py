"""What init does more, and otherwise, for a container with hooks. Runs in init; see bundle.py.

    node's mounts ──copy──▶ outside: + the bundle, with the root file system and nothing in it
                              │        prestart, createRuntime, poststart, poststop run here
                              └─copy─▶ inside: what is mounted in the root from now on is only here
                                         createContainer runs here, then the root is pivoted to

Without hooks the second is a copy of the pod's two mounts, and the first does not exist. Both go
with the last who is in them: init is, and the monitor holds the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from runtime.init import capabilities, credentials, steps
from runtime.init.context import Context
from runtime.init.steps import Step
from runtime.linux import mount
from runtime.linux.mount import Propagation
from runtime.linux.namespace import Clone, unshare
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
        made: list[Step] = []
        for name, step in listed:
            made.append((name, self.enter if name == "mount namespace" else step))
            if name in after:
                made.append(after[name])
        return tuple(made)

    def enter(self, context: Context) -> None:
        """Instead of a copy of the pod's mounts: two of the node's, both with the bundle."""
        shm_fd = bundle.shared_memory(context.surroundings.mount_ns_fd)
        bundle_fd = bundle.assemble(self._place, (), context.root_fd, shm_fd)
        bundle.write(bundle_fd, CONFIG, self._config(context))
        self._outside_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        unshare(Clone.NEWNS)
        slash = os.open("/", os.O_PATH | os.O_CLOEXEC)
        mount.mount_setattr(slash, propagation=int(Propagation.SLAVE), recursive=True)
        os.close(slash)
        context.root_fd = os.open(f"{self._place}/{ROOTFS}", _ROOT)
        context.shm = os.fsencode(f"{self._place}/{SHM}")
        credentials.make_files_theirs(context)

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
