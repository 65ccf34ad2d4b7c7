"""Makes a user namespace and an overlay of mapped layers in it; says what it sees. One thread.

Arguments: a directory with layers/a, skeleton, containers/c/{upper,work}, as the daemon's root has
them; "new", or "old": as before Linux 6.15.
"""

from __future__ import annotations

import json
import os
import sys

from runtime.init import idmap, rootfs, user_namespace
from runtime.init.values import RootPlan, UserMap
from runtime.linux.namespace import Clone


def main() -> None:
    base, kernel = sys.argv[1:]
    mounts = _mounts()
    ours = os.readlink("/proc/self/ns/net")
    users = UserMap(70000, 80000, 65536, 65536)
    fd = user_namespace.enter(users, Clone.NEWNET | Clone.NEWIPC | Clone.NEWUTS, lambda: None)
    own = f"{base}/containers/c"
    root = RootPlan((f"{base}/layers/a", f"{base}/skeleton"), f"{own}/upper", f"{own}/work")
    if kernel == "old":
        parents = (f"{base}/layers", base)
        found = rootfs.overlay_of_attached(root, {one: idmap.clone(one, fd) for one in parents})
    else:
        found = rootfs.mapped_overlay(root, fd)
    top = os.open(".", os.O_RDONLY, dir_fd=found)
    os.mkdir("made", dir_fd=top)
    owners = {name: os.stat(name, dir_fd=top) for name in sorted(os.listdir(top))}
    report = {
        "owners": {name: (status.st_uid, status.st_gid) for name, status in owners.items()},
        "same network": os.readlink("/proc/self/ns/net") == ours,
        "same mounts": _mounts() == mounts,
        "children": _children(),
    }
    json.dump(report, sys.stdout)


def _mounts() -> tuple[str, str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return os.readlink("/proc/self/ns/mnt"), file.read()


def _children() -> int:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return 0
    return 1


if __name__ == "__main__":
    main()
