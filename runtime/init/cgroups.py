"""What a container sees at /sys/fs/cgroup: its own cgroups, as the namespace's root. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.init.values import CgroupHierarchy, CgroupMount

_MOUNT_WORDS = frozenset(("rw", "ro", "xattr", "clone_children", "cpuset_v2_mode", "favordynmods"))


@dataclass(frozen=True, slots=True)
class CgroupLayout:
    """The node's cgroup v1 hierarchies, each as its controllers ("cpu,cpuacct", "name=systemd").

    None of them: the node uses cgroup v2.
    """

    hierarchies: tuple[str, ...] = ()

    @classmethod
    def parse(cls, mountinfo: Iterable[str]) -> CgroupLayout:
        """From the lines of /proc/self/mountinfo. A cgroup2 mount beside v1's is passed over."""
        found: list[str] = []
        for line in mountinfo:
            kind, _, super_options = line.partition(" - ")[2].split(" ", 2)
            if kind != "cgroup":
                continue
            words = super_options.strip().split(",")
            names = [
                word
                for word in words
                if word not in _MOUNT_WORDS and not word.startswith("release_agent=")
            ]
            if names and ",".join(names) not in found:
                found.append(",".join(names))
        return cls(tuple(found))


def cgroup_mount(destination: str, attributes: int, layout: CgroupLayout) -> CgroupMount:
    """The mount at `destination` (attributes: of MountAttr), as this node's layout wants it."""
    hierarchies = []
    links = []
    for controllers in layout.hierarchies:
        directory = controllers.removeprefix("name=")
        hierarchies.append(CgroupHierarchy(directory, controllers))
        names = controllers.split(",")
        if len(names) > 1:
            links += [(name, directory) for name in names]
    return CgroupMount(
        destination=destination,
        attributes=attributes,
        hierarchies=tuple(hierarchies),
        links=tuple(links),
    )
