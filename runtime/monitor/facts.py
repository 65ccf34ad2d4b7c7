"""What a monitor knows of its pod from the start."""

from __future__ import annotations


class Facts:
    """What a monitor is told when it is forked. The descriptors live as long as it does.

    directory: its own; netns_path: where the network namespace is pinned, empty without one;
    mount_fd: the pod's mount namespace; user_fd: its user namespace; pid_fd, reaper_pidfd: the
    shared pid namespace and its first process; -1 without; reaper_label: that one's for SELinux.
    """

    __slots__ = (
        "cgroup_parent",
        "directory",
        "mount_fd",
        "netns_path",
        "pid_fd",
        "reaper_label",
        "reaper_pidfd",
        "sandbox_id",
        "shared_pids",
        "user_fd",
    )

    def __init__(self) -> None:
        """Of no pod: who has one fills them in."""
        self.sandbox_id = ""
        self.directory = ""
        self.netns_path = ""
        self.cgroup_parent = ""
        self.shared_pids = False
        self.mount_fd = -1
        self.user_fd = -1
        self.pid_fd = -1
        self.reaper_pidfd = -1
        self.reaper_label = ""
