"""An adjustment in a spec: what changes, what stays, what is refused, and what a plugin is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cri.api import api_pb2 as api
from cri.errors import AdjustmentImpossible
from cri.nri import messages
from cri.nri.api import nri_pb2 as nri
from cri.nri.spec import applied
from cri.store.container import Container, ContainerMetadata, ContainerState, ContainerStatus
from cri.store.sandbox import Sandbox, SandboxMetadata, SandboxStatus
from runtime.spec import (
    BlockIo,
    Cpu,
    Device,
    DeviceRule,
    Hook,
    HugepageLimit,
    IoPriority,
    Linux,
    Memory,
    MemoryPolicy,
    Mount,
    Namespace,
    Pids,
    Process,
    Resources,
    Rlimit,
    Scheduler,
    Seccomp,
    SeccompArgument,
    SeccompSyscalls,
    Spec,
    UserLookup,
)

NOTHING = DeviceRule(allow=False)
SPEC = Spec(
    process=Process(
        args=("sleep", "1"),
        env=("PATH=/bin", "OLD=1", "RAW=\udcff"),
        rlimits=(Rlimit("RLIMIT_NOFILE", 10, 20), Rlimit("RLIMIT_CORE", 0, 0)),
        oom_score_adj=7,
    ),
    mounts=(
        Mount("/proc", "proc", "proc"),
        Mount("/data", "bind", "/old", ("rbind",)),
        Mount("/data/inner", "bind", "/inner", ("rbind",)),
    ),
    annotations={"kept": "1", "old": "1"},
    linux=Linux(
        namespaces=(Namespace("pid"), Namespace("cgroup")),
        devices=(Device("/dev/a", "c", 1, 2), Device("/dev/b", "c", 3, 4)),
        cgroups_path="/podwright/x",
        resources=Resources(
            devices=(NOTHING,),
            memory=Memory(limit=100, swap=100),
            cpu=Cpu(shares=5, cpus="0"),
            hugepage_limits=(HugepageLimit("2MB", 1),),
            unified={"memory.high": "1"},
        ),
    ),
)


def adjusted(spec: Spec = SPEC, **fields: object) -> Spec:
    wanted = nri.ContainerAdjustment(**fields)  # type: ignore[arg-type]  # by name
    return applied(spec, wanted, lambda field, entry: f"10-a({field},{entry})")


def linux(**fields: object) -> nri.LinuxContainerAdjustment:
    return nri.LinuxContainerAdjustment(**fields)  # type: ignore[arg-type]


def test_an_empty_adjustment_changes_nothing() -> None:
    assert adjusted() == SPEC


def test_variables_are_replaced_in_place_added_and_taken_away() -> None:
    env = [nri.KeyValue(key="-OLD"), nri.KeyValue(key="PATH", value="/x"), nri.KeyValue(key="N")]
    assert adjusted(env=env).process.env == ("PATH=/x", "RAW=\udcff", "N=")


def test_arguments_limits_and_the_score_are_replaced() -> None:
    limits = [
        nri.POSIXRlimit(type="RLIMIT_NOFILE", soft=1, hard=2),
        nri.POSIXRlimit(type="-RLIMIT_CORE"),
    ]
    made = adjusted(
        args=["true"], rlimits=limits, linux=linux(oom_score_adj=nri.OptionalInt(value=0))
    ).process
    assert made.args == ("true",)
    assert made.rlimits == (Rlimit("RLIMIT_NOFILE", 1, 2),)
    assert made.oom_score_adj == 0


def test_annotations_are_set_and_taken_away() -> None:
    assert adjusted(annotations={"new": "2", "-old": ""}).annotations == {"kept": "1", "new": "2"}


def test_mounts_are_replaced_and_outer_ones_come_first() -> None:
    mounts = [
        nri.Mount(destination="/data/", source="/new", options=["rbind", "ro"]),
        nri.Mount(destination="-/proc"),
        nri.Mount(destination="/a/b/c", type="tmpfs", source="tmpfs"),
    ]
    made = adjusted(mounts=mounts).mounts
    assert [(one.destination, one.type, one.source) for one in made] == [
        ("/data/", "bind", "/new"),
        ("/data/inner", "bind", "/inner"),
        ("/a/b/c", "tmpfs", "tmpfs"),
    ]
    assert made[0].options == ("rbind", "ro")


def test_devices_come_with_the_right_to_use_them() -> None:
    device = nri.LinuxDevice(path="/dev/a", type="b", major=8, minor=1)
    device.file_mode.value = 0o600
    made = adjusted(linux=linux(devices=[device, nri.LinuxDevice(path="-/dev/b")])).linux
    assert made.devices == (Device("/dev/a", "b", 8, 1, 0o600),)
    assert made.resources.devices == (NOTHING, DeviceRule(True, "b", 8, 1))


def test_resources_replace_what_they_name() -> None:
    wanted = nri.LinuxResources(pids=nri.LinuxPids(limit=9), unified={"io.max": "x"})
    wanted.memory.limit.value = 200
    wanted.memory.reservation.value = 50
    wanted.cpu.quota.value = 7
    wanted.hugepage_limits.add(page_size="2MB", limit=5)
    rule = wanted.devices.add(allow=False, type="c", access="w")
    rule.major.value = 10
    made = adjusted(linux=linux(resources=wanted)).linux.resources
    assert made.memory == Memory(limit=200, swap=200, reservation=50)
    assert made.cpu == Cpu(shares=5, cpus="0", quota=7)
    assert made.pids == Pids(9)
    assert made.hugepage_limits == (HugepageLimit("2MB", 5),)
    assert made.unified == {"memory.high": "1", "io.max": "x"}
    assert made.devices == (NOTHING, DeviceRule(False, "c", 10, None, "w"))


def test_swap_may_be_said_apart() -> None:
    wanted = nri.LinuxResources()
    wanted.memory.limit.value, wanted.memory.swap.value = 200, 300
    made = adjusted(linux=linux(resources=wanted)).linux.resources.memory
    assert made == Memory(limit=200, swap=300)


POLICY = Seccomp(
    "SCMP_ACT_ALLOW",
    default_errno_ret=5,
    architectures=("SCMP_ARCH_X86_64",),
    flags=("SECCOMP_FILTER_FLAG_LOG",),
    syscalls=(
        SeccompSyscalls(
            ("chmod",), "SCMP_ACT_ERRNO", 1, (SeccompArgument(1, 2, "SCMP_CMP_MASKED_EQ", 3),)
        ),
    ),
)


def told(spec: Spec) -> nri.Container:
    record = Container(ContainerMetadata("c1", "s1", "sha256:1", "busybox"), api.ContainerConfig())
    return messages.container(record, spec, nri.ContainerAdjustment())


def test_a_seccomp_policy_is_told_and_set_as_it_is() -> None:
    spec = Spec(Process(("x",)), linux=Linux(seccomp=POLICY))
    policy = told(spec).linux.seccomp_policy
    assert adjusted(linux=linux(seccomp_policy=policy)).linux.seccomp == POLICY


def test_scheduler_io_priority_and_memory_policy_are_set_and_told() -> None:
    scheduler = nri.LinuxScheduler(
        policy=nri.SCHED_FIFO, priority=9, flags=[nri.SCHED_FLAG_RESET_ON_FORK]
    )
    made = adjusted(
        linux=linux(
            scheduler=scheduler,
            io_priority=nri.LinuxIOPriority(**{"class": nri.IOPRIO_CLASS_RT, "priority": 3}),
            memory_policy=nri.LinuxMemoryPolicy(
                mode=nri.MPOL_BIND, nodes="0", flags=[nri.MPOL_F_STATIC_NODES]
            ),
        )
    )
    assert made.process.scheduler == Scheduler(
        "SCHED_FIFO", priority=9, flags=("SCHED_FLAG_RESET_ON_FORK",)
    )
    assert made.process.io_priority == IoPriority("IOPRIO_CLASS_RT", 3)
    assert made.linux.memory_policy == MemoryPolicy("MPOL_BIND", "0", ("MPOL_F_STATIC_NODES",))
    assert told(made).linux.scheduler == scheduler
    assert told(made).linux.io_priority.priority == 3


def test_numbers_without_a_name_are_left_to_who_compiles_the_spec() -> None:
    made = adjusted(linux=linux(scheduler=nri.LinuxScheduler(policy=99)))  # type: ignore[arg-type]
    assert made.process.scheduler == Scheduler("99")


def test_the_cgroup_namespace_may_come_and_go() -> None:
    gone = adjusted(linux=linux(namespaces=[nri.LinuxNamespace(type="-cgroup")]))
    assert [one.type for one in gone.linux.namespaces] == ["pid"]
    back = adjusted(gone, linux=linux(namespaces=[nri.LinuxNamespace(type="cgroup")]))
    assert [one.type for one in back.linux.namespaces] == ["pid", "cgroup"]


def test_hooks_are_added_to_those_of_the_spec() -> None:
    hook = nri.Hook(path="/h", args=["h"], timeout=nri.OptionalInt(value=3))
    old = replace(SPEC, hooks={"createRuntime": (Hook("/first"),), "poststop": (Hook("/last"),)})
    made = adjusted(old, hooks=nri.Hooks(create_runtime=[hook]))
    assert made.hooks == {
        "createRuntime": (Hook("/first"), Hook("/h", ("h",), (), 3)),
        "poststop": (Hook("/last"),),
    }


def test_a_class_of_block_io_stays_whatever_else_is_wanted() -> None:
    resources = replace(SPEC.linux.resources, block_io=BlockIo(weight=77))
    old = replace(SPEC, linux=replace(SPEC.linux, resources=resources))
    made = adjusted(old, env=[nri.KeyValue(key="A", value="1")])
    assert made.linux.resources.block_io == BlockIo(weight=77)


def resources_with(path: str) -> nri.LinuxResources:
    made = nri.LinuxResources()
    message: nri.LinuxResources | nri.LinuxMemory | nri.LinuxCPU = made
    part, _, name = path.rpartition(".")
    if part:
        message = getattr(made, part)
    getattr(message, name).SetInParent()
    return made


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "linux.rdt.clos_id": {
        "linux": linux(rdt=nri.LinuxRdt(clos_id=nri.OptionalString(value="gold")))
    },
    "linux.rdt.enable_monitoring": {
        "linux": linux(rdt=nri.LinuxRdt(enable_monitoring=nri.OptionalBool(value=True)))
    },
    "linux.net_devices[eth1]": {"linux": linux(net_devices={"eth1": nri.LinuxNetDevice()})},  # too
    "linux.namespaces[user]": {"linux": linux(namespaces=[nri.LinuxNamespace(type="-user")])},
    "linux.namespaces[uts]": {
        "linux": linux(namespaces=[nri.LinuxNamespace(type="uts", path="../uts")])
    },
    "linux.namespaces[cgroup]": {
        "linux": linux(namespaces=[nri.LinuxNamespace(type="cgroup", path="/proc/1/ns/cgroup")])
    },
    "linux.sysctl[net.x]": {"linux": linux(sysctl={"net.x": "1"})},  # it has the node's network
    "linux.sysctl[kernel.panic]": {"linux": linux(sysctl={"kernel.panic": "1"})},
    "linux.devices[/dev/x].type": {
        "linux": linux(devices=[nri.LinuxDevice(path="/dev/x", type="q")])
    },
    **{
        f"hooks.poststop[0]{what}": {"hooks": nri.Hooks(poststop=[hook])}
        for what, hook in (
            ("", nri.Hook(path="relative")),
            (".env", nri.Hook(path="/h", env=["=x"])),
            (".timeout", nri.Hook(path="/h", timeout=nri.OptionalInt(value=0))),
        )
    },
    "mounts": {"mounts": [nri.Mount(destination="/x", source="/y", options=["idmap"])]},
    "linux.resources.rdt_class": {
        "linux": linux(resources=nri.LinuxResources(rdt_class=nri.OptionalString(value="gold")))
    },
    **{
        f"linux.resources.{path}": {"linux": linux(resources=resources_with(path))}
        for path in (*("memory.kernel", "memory.use_hierarchy"),)
    },
}


@pytest.mark.parametrize("where", IMPOSSIBLE)
def test_what_can_not_be_had_is_refused_by_name(where: str) -> None:
    with pytest.raises(AdjustmentImpossible) as caught:
        adjusted(**IMPOSSIBLE[where])
    assert f": {where}: " in str(caught.value)
    assert str(caught.value).startswith("NRI plugin 10-a(")


def test_a_plugin_is_told_the_spec_with_the_state_and_labels_of_cri() -> None:
    config = api.ContainerConfig(
        metadata=api.ContainerMetadata(name="web"), labels={"l": "1"}, annotations={"a": "1"}
    )
    config.linux.security_context.seccomp.profile_type = api.SecurityProfile.Unconfined
    metadata = ContainerMetadata("c1", "s1", "sha256:1", "busybox", created_at=5)
    status = ContainerStatus(
        ContainerState.RUNNING, pid=7, started_at=6, uid=8, gid=9, groups=(9, 10)
    )
    adjustment = nri.ContainerAdjustment(annotations={"-a": "", "b": "2"})
    got = messages.container(Container(metadata, config, status), SPEC, adjustment)
    assert (got.id, got.pod_sandbox_id, got.name) == ("c1", "s1", "web")
    assert (got.state, got.pid, got.created_at, got.started_at) == (
        *(nri.CONTAINER_RUNNING, 7),
        *(5, 6),
    )
    assert dict(got.labels) == {"l": "1"}
    assert dict(got.annotations) == {"kept": "1", "old": "1", "b": "2"}
    assert list(got.args) == ["sleep", "1"]
    assert list(got.env) == ["PATH=/bin", "OLD=1", "RAW=\ufffd"]
    assert [one.destination for one in got.mounts] == ["/proc", "/data", "/data/inner"]
    assert got.linux.resources.memory.limit.value == 100
    assert not got.linux.resources.cpu.HasField("quota")
    assert got.linux.oom_score_adj.value == 7
    assert got.linux.cgroups_path == "/podwright/x"
    assert got.linux.seccomp_profile.profile_type == nri.SecurityProfile.UNCONFINED
    assert (got.user.uid, got.user.gid, list(got.user.additional_gids)) == (8, 9, [9, 10])


@pytest.mark.parametrize(
    ("lookup", "user", "groups"),
    [
        (UserLookup("7:8", supplemental=(9,)), (7, 8), [9]),
        (UserLookup("7", group=5), (7, 5), []),
        (UserLookup("alice"), (0, 0), []),
    ],
)
def test_before_it_runs_a_plugin_is_told_the_user_as_far_as_numbers_say(
    lookup: UserLookup, user: tuple[int, int], groups: list[int]
) -> None:
    got = told(Spec(Process(("x",), user_lookup=lookup))).user
    assert ((got.uid, got.gid), list(got.additional_gids)) == (user, groups)


def test_a_container_whose_spec_nobody_knows_is_told_by_what_was_asked_for() -> None:
    config = api.ContainerConfig()
    config.linux.resources.memory_limit_in_bytes = 5
    record = Container(ContainerMetadata("c1", "s1", "sha256:1", "busybox"), config)
    got = messages.container(record, None, nri.ContainerAdjustment())
    assert got.linux.resources.memory.limit.value == 5


def test_a_plugin_is_told_the_pod() -> None:
    config = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name="web", uid="u", namespace="ns"), labels={"l": "1"}
    )
    config.linux.cgroup_parent = "/kubepods/x"
    config.linux.overhead.cpu_quota = 5
    record = Sandbox(
        SandboxMetadata("s1", "runc", netns_path="/run/netns/x", cgroup_parent="/kubepods/x/s1"),
        config,
        SandboxStatus(ips=("10.0.0.1",), pid=7),
    )
    got = messages.pod(record)
    assert (got.id, got.name, got.uid, got.namespace) == ("s1", "web", "u", "ns")
    assert (got.runtime_handler, got.pid, list(got.ips)) == ("runc", 7, ["10.0.0.1"])
    assert (got.linux.cgroup_parent, got.linux.cgroups_path) == ("/kubepods/x", "/kubepods/x/s1")
    assert got.linux.pod_overhead.cpu.quota.value == 5
    assert [(one.type, one.path) for one in got.linux.namespaces] == [("network", "/run/netns/x")]
