"""From a spec to a plan, without root."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import codec
from runtime.errors import InvalidSpec
from runtime.init import options, plan
from runtime.init.cgroups import CgroupLayout
from runtime.init.values import Attributes, ContainerPlan, Identity, MountKind, Origin, ProcessPlan
from runtime.linux.mount import MountAttr, Propagation
from runtime.spec import (
    Capabilities,
    Device,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Rootfs,
    Spec,
    User,
    UserLookup,
)

GOLDEN = Path(__file__).parent / "golden"
ROOTFS = Rootfs(("/layers/b", "/layers/a"), "/c/upper", "/c/work")
PLAIN = Process(args=("/bin/true",), env=("PATH=/bin",))


def compiled(*mounts: Mount, process: Process = PLAIN, linux: Linux | None = None) -> ContainerPlan:
    return plan.container(Spec(process, mounts=mounts, linux=linux or Linux()), ROOTFS)


def kubernetes_like() -> Spec:
    safe = ("nosuid", "noexec", "nodev")
    caps = ("CAP_CHOWN", "CAP_NET_BIND_SERVICE")
    return Spec(
        process=Process(
            args=("/bin/app", "--serve"),
            cwd="/srv",
            env=("PATH=/usr/bin:/bin", "A=1", "A=2"),
            user_lookup=UserLookup("app", supplemental=(2000,)),
            capabilities=Capabilities(caps, caps, caps),
            rlimits=(Rlimit("RLIMIT_NOFILE", 1024, 2**64 - 1),),
            no_new_privileges=True,
            oom_score_adj=985,
        ),
        root=Root(readonly=True),
        mounts=(
            Mount("/proc", "proc", "proc", safe),
            Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
            Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "gid=5")),
            Mount("/dev/shm", "tmpfs", "pod-shm", safe),
            Mount("/sys", "sysfs", "sysfs", (*safe, "ro")),
            Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*safe, "relatime", "ro")),
            Mount("/etc/hosts", "bind", "/run/pods/1/hosts", ("rbind", "rprivate", "rw")),
            Mount("/data", "bind", "/srv/data", ("rbind", "rslave", "rro")),
        ),
        linux=Linux(
            namespaces=(Namespace("pid"), Namespace("mount"), Namespace("cgroup")),
            devices=(Device("/dev/fuse", "c", 10, 229, 0o660),),
            rootfs_propagation="rslave",
            masked_paths=("/proc/kcore", "/proc/kcore"),
            readonly_paths=("/proc/sys",),
        ),
    )


def test_a_whole_plan_is_as_recorded() -> None:
    layout = CgroupLayout(("cpu,cpuacct", "memory", "name=systemd"))
    made = plan.container(kubernetes_like(), ROOTFS, seccomp_program=b"\x06\0\0\0", cgroups=layout)
    text = json.dumps(codec.encode(made), indent=1, sort_keys=True) + "\n"
    path = GOLDEN / "container_plan.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), (
        f"if that is meant: UPDATE_GOLDEN=1, and look at git diff {path}"
    )


def test_a_plan_survives_its_way_through_json() -> None:
    made = plan.container(kubernetes_like(), ROOTFS, seccomp_program=bytes(range(16)))
    again = codec.decode(ContainerPlan, json.loads(json.dumps(codec.encode(made))))
    assert again == made


def test_mounts_keep_their_order() -> None:
    made = compiled(
        Mount("/b", "bind", "/node/b", ("bind",)),
        Mount("/b/c", "tmpfs", "tmpfs"),
        Mount("/a", "bind", "/node/a"),
    )
    assert [step.describe() for step in made.mounts] == [
        "bind /node/b -> /b",
        "tmpfs -> /b/c",
        "bind /node/a -> /a",
    ]


def test_a_bind_is_private_unless_it_says_otherwise() -> None:
    (step,) = compiled(Mount("/b", "bind", "/b", ("rbind",))).mounts
    assert step.propagation == Propagation.PRIVATE
    assert step.propagation_recursive
    assert step.origin is Origin.ANY


@pytest.mark.parametrize(
    ("option", "origin"), [("rslave", Origin.SLAVE), ("shared", Origin.SHARED)]
)
def test_propagation_asks_something_of_the_source(option: str, origin: Origin) -> None:
    (step,) = compiled(Mount("/b", "bind", "/b", ("rbind", option))).mounts
    assert step.origin is origin
    assert step.propagation_recursive is option.startswith("r")


def test_a_read_only_tmpfs_becomes_so_last() -> None:
    (step,) = compiled(Mount("/x", "tmpfs", "tmpfs", ("ro", "nodev"))).mounts
    assert step.late_readonly
    assert step.attributes.set == MountAttr.NODEV


def test_the_pods_shared_memory_is_recognised() -> None:
    (step,) = compiled(Mount("/dev/shm", "tmpfs", "pod-shm", ("nosuid",))).mounts
    assert step.kind is MountKind.SHM


def test_destinations_are_tidied() -> None:
    made = compiled(Mount("a/../b//c/", "tmpfs", "tmpfs"), Mount("//x", "tmpfs", "tmpfs"))
    assert [step.destination for step in made.mounts] == ["/b/c", "/x"]


def test_lxcfs_may_cover_its_files_in_proc() -> None:
    (step,) = compiled(Mount("/proc/meminfo", "bind", "/lxcfs/meminfo")).mounts
    assert step.inside_proc


def test_devices_replace_default_nodes() -> None:
    linux = Linux(devices=(Device("/dev/null", "c", 1, 3, 0o600), Device("/dev/sda", "b", 8, 0)))
    nodes = {node.path: node for node in compiled(linux=linux).dev.nodes}
    assert nodes["/dev/null"].mode == stat.S_IFCHR | 0o600
    assert nodes["/dev/sda"].mode == stat.S_IFBLK | 0o666
    assert nodes["/dev/sda"].number == os.makedev(8, 0)
    assert "/dev/urandom" in nodes


def test_a_nodes_own_links_and_directories_are_no_devices() -> None:
    devices = tuple(Device(f"/dev/{name}", "c", 5, 2) for name in ("ptmx", "stdin", "pts"))
    mounts = (Mount("/dev", "tmpfs", "tmpfs"), Mount("/dev/pts", "devpts", "devpts"))
    made = compiled(*mounts, linux=Linux(devices=devices))
    assert len(made.dev.nodes) == 6


def test_dev_makes_the_mount_points_below_it_at_once() -> None:
    made = compiled(
        Mount("/dev", "tmpfs", "tmpfs"),
        Mount("/dev/pts", "devpts", "devpts"),
        Mount("/dev/mqueue", "mqueue", "mqueue"),
    )
    assert made.dev.directories == ("pts", "mqueue")
    assert ("ptmx", "pts/ptmx") in made.dev.links


@pytest.mark.parametrize(
    ("mount", "path", "text"),
    [
        (Mount("/", "tmpfs"), "mounts[0].destination", "is the root itself"),
        (Mount("/a/..", "tmpfs"), "mounts[0].destination", "is the root itself"),
        (Mount("/proc/sys", "tmpfs"), "mounts[0].destination", "nothing may cover part of /proc"),
        (Mount("/x/../proc/1", "bind", "/a"), "mounts[0].destination", "part of /proc"),
        (Mount("/proc", "tmpfs", "tmpfs"), "mounts[0].destination", "only procfs"),
        (Mount("/x", "bind", "relative"), "mounts[0].source", '"relative" is not absolute'),
        (Mount("/x", "bind", "/a\0b"), "mounts[0].source", "NUL"),
        (Mount("/x", "bind", "/a", ("size=1",)), "mounts[0].options", '"size" means nothing'),
        (Mount("/x", "bind", "/a", ("idmap",)), "mounts[0].options", "not supported"),
        (Mount("/x", "tmpfs", "", ("a=" + 256 * "b",)), "mounts[0].options", "255 bytes"),
    ],
)
def test_a_mount_that_can_not_be_is_refused(mount: Mount, path: str, text: str) -> None:
    with pytest.raises(InvalidSpec, match=r".") as caught:
        compiled(mount)
    assert caught.value.path == path
    assert text in caught.value.text


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"args": ()}, "process.args"),
        ({"args": ("",)}, "process.args[0]"),
        ({"args": ("a", "b\0")}, "process.args[1]"),
        ({"cwd": "srv"}, "process.cwd"),
        ({"env": ("A=1", "NOVALUE")}, "process.env[1]"),
        ({"env": ("=x",)}, "process.env[0]"),
        ({"user": User(2**32 - 1)}, "process.user.uid"),
        ({"user": User(-1)}, "process.user.uid"),
        ({"user": User(0, 2**40)}, "process.user.gid"),
        ({"user": User(additional_gids=(2**32,))}, "process.user.additionalGids"),
        ({"user": User(umask=0o1000)}, "process.user.umask"),
        ({"user_lookup": UserLookup("a", group=2**32 - 1)}, "process.userLookup.group"),
        ({"oom_score_adj": 1001}, "process.oomScoreAdj"),
        ({"rlimits": (Rlimit("RLIMIT_FOO", 1, 1),)}, "process.rlimits[0].type"),
        ({"rlimits": (Rlimit("RLIMIT_CPU", 2, 1),)}, "process.rlimits[0].soft"),
        ({"rlimits": (Rlimit("RLIMIT_CPU", 1, 2**65),)}, "process.rlimits[0]"),
        ({"rlimits": (Rlimit("RLIMIT_CPU", 1, 1),) * 2}, "process.rlimits[1].type"),
        ({"capabilities": Capabilities(bounding=("CAP_X",))}, "process.capabilities.bounding"),
        ({"terminal": True}, "process.terminal"),
    ],
)
def test_a_process_that_can_not_be_is_refused(change: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        compiled(process=replace(PLAIN, **change))  # type: ignore[arg-type]  # by name
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("linux", "path"),
    [
        (Linux(devices=(Device("/dev/x", "z"),)), "linux.devices[0].type"),
        (Linux(devices=(Device("/dev/x", "c", 5000),)), "linux.devices[0]"),
        (Linux(masked_paths=("proc",)), "linux.maskedPaths"),
        (Linux(rootfs_propagation="wild"), "linux.rootfsPropagation"),
    ],
)
def test_a_surrounding_that_can_not_be_is_refused(linux: Linux, path: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        compiled(linux=linux)
    assert caught.value.path == path


def test_unlimited_is_minus_one_to_the_kernel() -> None:
    limits = (Rlimit("RLIMIT_CORE", 2**64 - 1, 2**64 - 1), Rlimit("RLIMIT_CPU", 5, 2**64 - 1))
    made = compiled(process=replace(PLAIN, rlimits=limits)).process.rlimits
    assert [(limit.soft, limit.hard) for limit in made] == [(-1, -1), (5, -1)]


def test_the_primary_group_is_always_among_the_groups() -> None:
    process = replace(PLAIN, user=User(5, 7, additional_gids=(9, 7, 9)))
    assert compiled(process=process).process.identity.groups == (7, 9)


def test_an_execd_process_takes_a_known_identity() -> None:
    who = Identity(5, 6, (6, 7), "/home/x")
    made = plan.process(kubernetes_like(), ("ls",), identity=who)
    assert isinstance(made, ProcessPlan)
    assert (made.args, made.identity, made.lookup, made.home_lookup) == (("ls",), who, None, False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("ro", "rw"), Attributes(0, MountAttr.RDONLY)),
        (("nosuid", "suid", "nosuid"), Attributes(MountAttr.NOSUID, 0)),
        (("noatime",), Attributes(MountAttr.NOATIME, MountAttr.ATIME)),
        (("noatime", "relatime"), Attributes(0, MountAttr.ATIME)),
        (("defaults", "async", ""), Attributes()),
    ],
)
def test_later_options_win(given: tuple[str, ...], expected: Attributes) -> None:
    assert options.parse(given, "x").attributes == expected


def test_options_with_an_r_go_for_the_tree() -> None:
    found = options.parse(("rro", "rnosuid", "ro"), "x")
    assert found.tree == Attributes(MountAttr.RDONLY | MountAttr.NOSUID, 0)
    assert found.attributes == Attributes(MountAttr.RDONLY, 0)


MOUNTINFO = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children
35 31 0:31 / /elsewhere rw - cgroup cgroup rw,cpuset,clone_children
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_the_nodes_hierarchies_are_read_from_mountinfo() -> None:
    layout = CgroupLayout.parse(MOUNTINFO.splitlines(keepends=True))
    assert layout.hierarchies == ("cpu,cpuacct", "cpuset", "name=systemd")
    assert (
        CgroupLayout.parse(["30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"]) == CgroupLayout()
    )


def test_a_co_mounted_hierarchy_gets_links() -> None:
    mount = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro",))
    made = plan.container(
        Spec(PLAIN, mounts=(mount,)), ROOTFS, cgroups=CgroupLayout(("cpu,cpuacct", "name=systemd"))
    )
    assert made.cgroup_mount is not None
    assert made.cgroup_mount.links == (("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct"))
    assert [(item.directory, item.options) for item in made.cgroup_mount.hierarchies] == [
        ("cpu,cpuacct", "cpu,cpuacct"),
        ("systemd", "name=systemd"),
    ]
