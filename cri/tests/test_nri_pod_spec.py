"""An adjustment of what a container shares with its pod, and of what only some kernels have."""

from __future__ import annotations

from dataclasses import replace

from cri.nri.api import nri_pb2 as nri
from cri.tests.test_nri_spec import SPEC, adjusted, linux, told
from runtime.spec import NEW_NAMESPACE, NODE_NAMESPACE, Namespace


def test_what_a_container_shares_with_its_pod_may_be_new_joined_or_the_nodes() -> None:
    shared = tuple(map(Namespace, ("network", "ipc", "uts", "pid")))
    pods = replace(SPEC, linux=replace(SPEC.linux, namespaces=shared))
    wanted = [
        nri.LinuxNamespace(type="-network"),
        nri.LinuxNamespace(type="ipc"),
        nri.LinuxNamespace(type="uts", path="/run/uts"),
        nri.LinuxNamespace(type="-pid"),
    ]
    made = adjusted(pods, linux=linux(namespaces=wanted)).linux.namespaces
    assert made == (
        Namespace("network", NODE_NAMESPACE),
        Namespace("ipc", NEW_NAMESPACE),
        Namespace("uts", "/run/uts"),
    )
    seen = told(replace(pods, linux=replace(pods.linux, namespaces=made))).linux.namespaces
    assert [(one.type, one.path) for one in seen] == [("ipc", ""), ("uts", "/run/uts")]


def test_sysctls_are_set_and_taken_away_where_they_are_the_pods() -> None:
    pods = replace(SPEC, linux=replace(SPEC.linux, namespaces=(Namespace("network"),)))
    made = adjusted(pods, linux=linux(sysctl={"net.a": "1", "net.b": "2"}))
    assert made.linux.sysctl == {"net.a": "1", "net.b": "2"}
    gone = adjusted(made, linux=linux(sysctl={"-net.a": "", "-net.none": ""}))
    assert gone.linux.sysctl == {"net.b": "2"}


def test_to_be_taken_out_of_a_class_that_nobody_has_is_no_wish() -> None:
    nothing = nri.LinuxResources(rdt_class=nri.OptionalString())
    wanted = linux(rdt=nri.LinuxRdt(remove=True), resources=nothing)
    assert adjusted(linux=wanted) == SPEC


def test_what_only_cgroup_v1_knows_is_taken_over_and_told() -> None:
    wanted = nri.LinuxResources()
    wanted.memory.swappiness.value, wanted.memory.kernel_tcp.value = 0, 4096
    wanted.memory.use_hierarchy.value = True
    wanted.cpu.realtime_runtime.value, wanted.cpu.realtime_period.value = 10, 1000
    made = adjusted(linux=linux(resources=wanted))
    memory, cpu = made.linux.resources.memory, made.linux.resources.cpu
    assert memory is not None
    assert cpu is not None
    assert (memory.swappiness, memory.kernel_tcp) == (0, 4096)
    assert (cpu.realtime_runtime, cpu.realtime_period) == (10, 1000)
    seen = told(made).linux.resources
    assert seen.memory.swappiness.value == 0
    assert seen.memory.HasField("swappiness")
    assert seen.cpu.realtime_period.value == 1000
