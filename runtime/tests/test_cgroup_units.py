"""Names of systemd's units, and limits as their properties."""

from __future__ import annotations

import pytest

from runtime.cgroup import units
from runtime.cgroup.limits import Setting, limits
from runtime.errors import InvalidSpec
from runtime.spec import Cpu, Memory, Pids, Resources


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("kubepods.slice", "/kubepods.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        (
            "kubepods-besteffort-pod1_2.slice",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
        ),
    ],
)
def test_a_slices_name_says_where_it_lies(name: str, path: str) -> None:
    assert units.slice_path(name) == path


@pytest.mark.parametrize(
    "name", ["", "a", ".slice", "-.slice", "-a.slice", "a--b.slice", "a/b.slice", "a\n.slice",
             "a-.slice", "ä.slice", "x" * 250 + ".slice"]
)  # fmt: skip
def test_what_is_no_name_of_a_slice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="slice"):
        units.slice_path(name)


def test_a_pod_of_our_own_gets_a_slice_in_the_configured_parent() -> None:
    assert units.pod_slice("/podwright", "s1") == "/podwright.slice/podwright-s1.slice"
    assert units.pod_slice("/a/b", "s1") == "/a.slice/a-b.slice/a-b-s1.slice"
    expected = "/x.slice/x-y.slice/x-y-s1.slice"
    assert units.pod_slice("/x.slice/x-y.slice", "s1") == expected


def test_a_container_is_a_scope_in_a_slice_and_a_directory_elsewhere() -> None:
    assert units.container_cgroup("/kubepods/podX", "c1") == "/kubepods/podX/c1"
    path = units.container_cgroup("/a.slice/a-b.slice", "c1")
    assert path == "/a.slice/a-b.slice/podwright-c1.scope/container"
    assert units.scope_path(path) == "/a.slice/a-b.slice/podwright-c1.scope"
    assert units.scope_and_slice(path) == ("podwright-c1.scope", "a-b.slice")


@pytest.mark.parametrize(
    "path",
    [
        "/kubepods/podX/c1.scope/container",
        "/b.slice/a-b.slice/c1.scope/container",
        "/a.slice/c1/container",
        "/a.slice/c1.scope",
        "/c1.scope/container",
    ],
)
def test_a_scope_where_systemd_would_not_put_it_is_refused(path: str) -> None:
    with pytest.raises(InvalidSpec, match=r"linux\.cgroupsPath"):
        units.scope_and_slice(path)


def properties(resources: Resources) -> dict[str, object]:
    made = units.properties(limits(resources, 2).settings)
    return {name: value for name, (_, value) in made}


def test_limits_are_properties_too() -> None:
    resources = Resources(
        memory=Memory(limit=1 << 26, swap=1 << 27, reservation=1 << 20),
        cpu=Cpu(shares=1024, quota=25_000, period=50_000, cpus="0-3,8"),
        pids=Pids(limit=100),
        unified={"memory.high": "1000", "memory.oom.group": "1", "io.max": "8:0 rbps=1"},
    )
    assert properties(resources) == {
        "MemoryMax": 1 << 26,
        "MemorySwapMax": 1 << 26,
        "MemoryLow": 1 << 20,
        "MemoryHigh": 1000,
        "CPUWeight": 100,
        "TasksMax": 100,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUQuotaPeriodUSec": 50_000,
        "AllowedCPUs": bytes((0b1111, 0b1)),
    }


def test_no_limit_is_systemds_infinity() -> None:
    made = properties(Resources(memory=Memory(limit=-1), cpu=Cpu(quota=-1), pids=Pids(limit=-1)))
    assert set(made) == {
        *("MemoryMax", "MemorySwapMax", "TasksMax"),
        *("CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec"),
    }
    assert made["MemoryMax"] == made["CPUQuotaPerSecUSec"] == units.INFINITY


def test_a_scope_has_room_for_who_keeps_the_place() -> None:
    assert properties(Resources(pids=Pids(limit=1)))["TasksMax"] == 2


def test_a_quota_is_rounded_up_to_what_systemd_can_write_down() -> None:
    made = properties(Resources(cpu=Cpu(quota=12_345, period=100_000)))
    assert made["CPUQuotaPerSecUSec"] == 130_000


@pytest.mark.parametrize(
    ("listed", "bits"),
    [("0", b"\1"), ("9", b"\0\2"), ("0-7:1/2", b"\x55"), ("0-7:2/4,16", b"\x33\0\1")],
)
def test_a_list_of_cpus_becomes_bits(listed: str, bits: bytes) -> None:
    ((name, (signature, value)), *_) = units.properties(
        [Setting("", "cpuset", "cpuset.cpus", listed)]
    )
    assert (name, signature, value) == ("AllowedCPUs", "ay", bits)
