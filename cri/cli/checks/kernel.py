"""The kernel: its version, cgroups, namespaces, seccomp, limits, and our rights in it."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping

from cri.cli.checks.finding import Finding, Place, fail, note, ok, warn
from runtime.apparmor import profiles
from runtime.cgroup import driver, tree
from runtime.cgroup.tree import Hierarchy
from runtime.errors import RuntimeFault
from runtime.selinux import node

LEAST = (5, 12)
"""mount_setattr(2); clone3, openat2, pidfds and the new mount API are older."""

CAPABILITIES: Mapping[int, tuple[str, str]] = {
    21: ("CAP_SYS_ADMIN", "no pod can be made"),
    12: ("CAP_NET_ADMIN", "no pod network can be made"),
    24: ("CAP_SYS_RESOURCE", "an oom_score_adj below the daemon's own is raised to it"),
}
WANTED_CONTROLLERS = {"cpu", "memory", "pids", "cpuset"}
LEAST_FILES = 65536
LEAST_SYSCTLS: Mapping[str, tuple[int, str]] = {
    "kernel.pid_max": (65536, "processes on the node"),
    "user.max_net_namespaces": (1024, "pods"),
    "user.max_mnt_namespaces": (1024, "containers"),
    "user.max_pid_namespaces": (1024, "containers"),
    "fs.inotify.max_user_instances": (512, "processes that watch files; kubelet is one"),
    "kernel.keys.maxkeys": (2000, "containers with a session keyring, under one user"),
}


def version(place: Place) -> Iterator[Finding]:
    """The kernel is new enough."""
    release = place.sysctl("kernel.osrelease")
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None or (int(found[1]), int(found[2])) < LEAST:
        remedy = "install a newer kernel; Debian 12 has 6.1"
        yield fail("kernel", f"{release} is older than {LEAST[0]}.{LEAST[1]}", remedy)
    else:
        yield ok("kernel", f"{release} has all that is used ({LEAST[0]}.{LEAST[1]} and later)")


def rights(place: Place) -> Iterator[Finding]:
    """We are root, with the capabilities that making containers takes."""
    if os.geteuid() != 0:
        yield fail("rights", "not root", "run podwright as root; what follows may be wrong")
        return
    status = (place.proc / "self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    missing = [told for bit, told in CAPABILITIES.items() if not effective >> bit & 1]
    for name, consequence in missing:
        finding = note if name == "CAP_SYS_RESOURCE" else fail
        remedy = f"start the daemon where root has {name} (not inside a confined container)"
        yield finding("rights", f"{name} is missing: {consequence}", remedy)
    if not missing:
        yield ok("rights", "root, with every capability that is needed")


def cgroups(place: Place) -> Iterator[Finding]:
    """A cgroup hierarchy with the controllers that pods are limited by."""
    remedy = "mount them, or boot with systemd, which does"
    try:
        hierarchy = _hierarchy(place)
    except RuntimeFault as error:
        yield fail("cgroups", str(error), remedy)
        return
    missing = sorted(WANTED_CONTROLLERS - set(hierarchy.controllers))
    have = ", ".join(hierarchy.controllers)
    if missing:
        yield warn(
            "cgroups", f"v{hierarchy.version} has no controller {', '.join(missing)}", remedy
        )
    else:
        yield ok("cgroups", f"v{hierarchy.version} with {have}")
    if hierarchy.version == 1:
        yield note(
            "cgroups",
            "version 1 works here, but kubelet 1.35 and later refuses it by default",
            "boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false for kubelet",
        )


def _hierarchy(place: Place) -> Hierarchy:
    return tree.detect(place.sys / "fs/cgroup", mountinfo=place.proc / "self/mountinfo")


def cgroup_driver(place: Place) -> Iterator[Finding]:
    """Who makes cgroups, and why."""
    try:
        version = _hierarchy(place).version
    except RuntimeFault:
        return  # `cgroups` has told
    choice = driver.choose(
        place.config.cgroup.driver,
        version,
        booted=str(place.run / "systemd/system"),
        answers=lambda: driver.systemd_version(str(place.run)),
    )
    if choice.broken:
        remedy = 'write cgroup.driver = "auto", or "cgroupfs"'
        yield fail("cgroup driver", f"systemd can't be used: {choice.reason}", remedy)
    else:
        yield ok("cgroup driver", f"{choice.driver}, since {choice.reason}")


def namespaces(place: Place) -> Iterator[Finding]:
    """All kinds of namespaces; user namespaces may be switched off."""
    kinds = ("net", "mnt", "pid", "ipc", "uts", "cgroup")
    absent = [kind for kind in kinds if not (place.proc / "self/ns" / kind).exists()]
    if absent:
        remedy = "use a kernel built with CONFIG_NAMESPACES, NET_NS, PID_NS, IPC_NS and UTS_NS"
        yield fail("namespaces", f"the kernel has no {', '.join(absent)} namespaces", remedy)
    else:
        yield ok("namespaces", ", ".join(kinds))
    users = place.sysctl("user.max_user_namespaces")
    if (place.proc / "self/ns/user").exists() and users not in ("", "0"):
        yield ok("user namespaces", f"up to {users}")
    else:
        remedy = "sysctl user.max_user_namespaces=65536, if pods with hostUsers: false are wanted"
        yield note("user namespaces", "switched off", remedy)


def seccomp(place: Place) -> Iterator[Finding]:
    """seccomp filters, and the library that compiles them."""
    if "errno" not in place.sysctl("kernel.seccomp.actions_avail").split():
        remedy = "use a kernel built with CONFIG_SECCOMP_FILTER"
        yield fail("seccomp", "the kernel has no seccomp filters", remedy)
        return
    from runtime.seccomp import compile as compiler
    from runtime.seccomp.profile import default_profile

    try:
        program = compiler.program(default_profile(()))
    except (RuntimeFault, OSError) as error:
        remedy = "apt install libseccomp2"
        yield fail("seccomp", f"the default profile can't be compiled: {error}", remedy)
    else:
        yield ok("seccomp", f"the default profile compiles to {len(program) // 8} instructions")


def limits(place: Place) -> Iterator[Finding]:
    """Limits that a full node would meet."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    small = False
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        small = True
        remedy = "LimitNOFILE=1048576 in the unit (deploy/podwright.service has it)"
        yield warn("limits", f"only {files} open files per process", remedy)
    for name, (least, whom) in LEAST_SYSCTLS.items():
        value = place.sysctl(name)
        if value.isdigit() and int(value) < least:
            small = True
            yield warn("limits", f"{name} is {value}: it limits {whom}", f"sysctl {name}={least}")
    if not small:
        yield ok("limits", "open files, processes, namespaces and watches are plenty")


def swap(place: Place) -> Iterator[Finding]:
    """kubelet does not start on a node with swap, unless told to."""
    lines = (place.proc / "swaps").read_text().splitlines()[1:]
    if lines:
        remedy = "swapoff -a, or failSwapOn: false for kubelet"
        yield note("swap", f"{len(lines)} swap areas; kubelet refuses them by default", remedy)
    else:
        yield ok("swap", "none, as kubelet wants it")


def selinux(place: Place) -> Iterator[Finding]:
    """Pods get labels, where the kernel has SELinux on."""
    if not node.enabled(place.sys):
        yield ok("selinux", "not on here: seLinuxOptions of pods mean nothing")
        return
    try:
        how = "enforcing" if node.enforcing(place.sys) else "permissive"
        policy = node.policy(place.etc.parent, place.sys)
    except (node.PolicyUnusable, OSError) as error:
        yield warn("selinux", f"on, but pods get no labels: {error}", node.REMEDY)
        return
    if place.config.containers.selinux == "off":
        remedy = 'containers.selinux = "auto", if pods are to be kept apart by it'
        yield warn("selinux", f"{how}, but the configuration has it off for pods", remedy)
    else:
        yield ok("selinux", f"{how}; containers are {policy.process}, with categories of their own")


def apparmor(place: Place) -> Iterator[Finding]:
    """The profile for RuntimeDefault is loaded, where the kernel has AppArmor."""
    if not profiles.enabled(place.sys):
        remedy = "boot with apparmor=1 security=apparmor, if pods ask for profiles"
        yield note("apparmor", "the kernel has none, or it is off", remedy)
        return
    name = place.config.containers.apparmor_profile
    try:
        loaded = profiles.loaded(place.sys)
    except OSError as error:
        remedy = "mount -t securityfs securityfs /sys/kernel/security"
        yield warn("apparmor", f"its profiles can't be listed: {error}", remedy)
        return
    if name in loaded:
        yield ok("apparmor", f"{name} is loaded, with {len(loaded) - 1} others")
    elif name == profiles.DEFAULT:
        remedy = "apt install apparmor, then start podwright anew: it loads its profile"
        yield warn("apparmor", f"{name} is not loaded: containers are not confined", remedy)
    else:
        remedy = f"load it with apparmor_parser; it is containers.apparmor_profile ({name})"
        yield warn("apparmor", f"{name} is not loaded: containers are not confined", remedy)


CHECKS = (
    *(version, rights, cgroups, cgroup_driver, namespaces),
    *(seccomp, limits, swap, selinux, apparmor),
)
