"""What several plugins want of one container: put together, or found to be in conflict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri.errors import AdjustmentImpossible, PluginsDisagree
from cri.nri import resources
from cri.nri.adjustments import Adjustments
from cri.nri.api import nri_pb2 as nri
from cri.nri.mux import MAX_PIECE, Demux, MuxViolation, Piece, framed
from cri.nri.owners import Owners
from cri.nri.updates import Updates

ID = "c1"


@pytest.fixture
def merging() -> Adjustments:
    """A container with something of everything, not yet adjusted."""
    request = nri.CreateContainerRequest()
    container = request.container
    container.id = ID
    container.annotations["kept"] = container.annotations["old"] = "1"
    container.env.extend(["PATH=/bin", "OLD=1"])
    container.args.extend(["sleep", "1"])
    container.mounts.add(destination="/proc", type="proc", source="proc")
    container.mounts.add(destination="/data", type="bind", source="/old")
    container.linux.devices.add(path="/dev/old", type="c")
    container.linux.resources.memory.limit.value = 100
    return Adjustments(request)


def wanted(**fields: object) -> nri.CreateContainerResponse:
    return nri.CreateContainerResponse(
        adjust=nri.ContainerAdjustment(**fields)  # type: ignore[arg-type]  # by name
    )


def linux(**fields: object) -> nri.CreateContainerResponse:
    return wanted(linux=nri.LinuxContainerAdjustment(**fields))  # type: ignore[arg-type]


def rescued(**fields: object) -> nri.LinuxResources:
    return nri.LinuxResources(**fields)  # type: ignore[arg-type]


def test_the_next_plugin_sees_what_those_before_it_want(merging: Adjustments) -> None:
    merging.add(
        "10-a",
        wanted(
            annotations={"new": "2", "-old": ""},
            env=[nri.KeyValue(key="OLD", value="2"), nri.KeyValue(key="-PATH")],
            args=["true"],
            mounts=[nri.Mount(destination="/data", source="/new"), nri.Mount(destination="-/proc")],
        ),
    )
    seen = merging.request.container
    assert dict(seen.annotations) == {"kept": "1", "new": "2"}
    assert list(seen.env) == ["OLD=2"]
    assert list(seen.args) == ["true"]
    assert [(one.destination, one.source) for one in seen.mounts] == [("/data", "/new")]
    assert dict(merging.merged.annotations) == {"new": "2", "-old": ""}


ONE_OF_EACH: dict[str, dict[str, Any]] = {
    "Annotations key": {"annotations": {"key": "1"}},
    "Env KEY": {"env": [nri.KeyValue(key="KEY", value="1")]},
    "Args": {"args": ["true"]},
    "Mounts /mnt": {"mounts": [nri.Mount(destination="/mnt", source="/a")]},
    "Rlimits RLIMIT_CORE": {"rlimits": [nri.POSIXRlimit(type="RLIMIT_CORE")]},
    "CdiDevices v.com/a=b": {"CDI_devices": [nri.CDIDevice(name="v.com/a=b")]},
}
LINUX: dict[str, dict[str, Any]] = {
    "Devices /dev/x": {"devices": [nri.LinuxDevice(path="/dev/x", type="c")]},
    "Namespace cgroup": {"namespaces": [nri.LinuxNamespace(type="cgroup")]},
    "Sysctl net.x": {"sysctl": {"net.x": "1"}},
    "LinuxNetDevices eth9": {"net_devices": {"eth9": nri.LinuxNetDevice(name="x")}},
    "CgroupsPath": {"cgroups_path": "/x"},
    "OomScoreAdj": {"oom_score_adj": nri.OptionalInt(value=0)},
    "IoPriority": {"io_priority": nri.LinuxIOPriority()},
    "SeccompPolicy": {"seccomp_policy": nri.LinuxSeccomp()},
    "LinuxSched": {"scheduler": nri.LinuxScheduler()},
    "MemoryPolicy": {"memory_policy": nri.LinuxMemoryPolicy()},
    "RdtClosID": {"rdt": nri.LinuxRdt(clos_id=nri.OptionalString(value="x"))},
    "RdtSchemata": {"rdt": nri.LinuxRdt(schemata=nri.OptionalRepeatedString())},
    "RdtEnableMonitoring": {"rdt": nri.LinuxRdt(enable_monitoring=nri.OptionalBool())},
}


def every_resource() -> Iterator[tuple[str, nri.LinuxResources]]:
    for table, message in ((resources.MEMORY, "memory"), (resources.CPU, "cpu")):
        for name, field in table.items():
            made = nri.LinuxResources()
            getattr(getattr(made, message), name).value = 0  # zero is a wish, too
            getattr(getattr(made, message), name).SetInParent()
            yield nri.Field.Name(field), made
    yield "CPUSetCPUs", rescued(cpu=nri.LinuxCPU(cpus="0"))
    yield "CPUSetMems", rescued(cpu=nri.LinuxCPU(mems="0"))
    yield "PidsLimit", rescued(pids=nri.LinuxPids())
    yield "BlockioClass", rescued(blockio_class=nri.OptionalString(value="slow"))
    yield "RdtClass", rescued(rdt_class=nri.OptionalString(value="gold"))
    yield "CgroupsUnified memory.high", rescued(unified={"memory.high": "1"})
    yield "HugepageLimits 2MB", rescued(hugepage_limits=[nri.HugepageLimit(page_size="2MB")])


def every_wish() -> Iterator[tuple[str, nri.CreateContainerResponse]]:
    for what, fields in ONE_OF_EACH.items():
        yield what, wanted(**fields)
    for what, fields in LINUX.items():
        yield what, linux(**fields)
    for what, made in every_resource():
        yield what, linux(resources=made)


def test_every_field_is_covered_here_but_those_of_many_plugins() -> None:
    known = {what.split(" ", maxsplit=1)[0] for what, _ in every_wish()}
    assert set(nri.Field.keys()) - known == {"NoField", "OciHooks"}


@pytest.mark.parametrize(("what", "wish"), list(every_wish()), ids=lambda one: str(one)[:30])
def test_what_one_plugin_sets_no_other_may_set(
    merging: Adjustments, what: str, wish: nri.CreateContainerResponse
) -> None:
    merging.add("10-a", wish)
    with pytest.raises(PluginsDisagree) as caught:
        merging.add("20-b", wish)
    assert str(caught.value) == f"NRI plugins 10-a and 20-b both tried to set {what}"


@pytest.mark.parametrize(("what", "wish"), list(every_wish()), ids=lambda one: str(one)[:30])
def test_the_owner_of_a_wish_is_known(
    merging: Adjustments, what: str, wish: nri.CreateContainerResponse
) -> None:
    merging.add("10-a", wish)
    name, _, entry = what.partition(" ")
    number: Any = nri.Field.Value(name)
    assert merging.owners.of(ID, number, entry) == "10-a"
    assert merging.owners.names(ID) == {"10-a"}


def test_a_plugin_may_take_away_what_another_has_set_and_set_it_anew(merging: Adjustments) -> None:
    merging.add("10-a", wanted(env=[nri.KeyValue(key="A", value="1")], annotations={"x": "1"}))
    merging.add(
        "20-b",
        wanted(
            env=[nri.KeyValue(key="-A"), nri.KeyValue(key="A", value="2")],
            annotations={"-x": "", "x": "2"},
        ),
    )
    assert [(pair.key, pair.value) for pair in merging.merged.env] == [("A", "2")]
    assert dict(merging.merged.annotations) == {"x": "2"}
    with pytest.raises(PluginsDisagree, match="20-b and 30-c both tried to set Env A"):
        merging.add("30-c", wanted(env=[nri.KeyValue(key="A", value="3")]))


def test_what_was_taken_away_only_who_took_it_may_set(merging: Adjustments) -> None:
    merging.add("10-a", wanted(mounts=[nri.Mount(destination="-/data")]))
    assert [one.destination for one in merging.merged.mounts] == ["-/data"]
    with pytest.raises(PluginsDisagree):
        merging.add("20-b", wanted(mounts=[nri.Mount(destination="/data", source="/b")]))
    merging.add("10-a", wanted(mounts=[nri.Mount(destination="/data", source="/a")]))
    assert [one.destination for one in merging.merged.mounts] == ["/data"]


def test_arguments_may_be_replaced_on_purpose(merging: Adjustments) -> None:
    merging.add("10-a", wanted(args=["one"]))
    merging.add("20-b", wanted(args=["", "two"]))
    assert list(merging.merged.args) == ["two"]


def test_hooks_add_up(merging: Adjustments) -> None:
    for plugin, path in (("10-a", "/a"), ("20-b", "/b")):
        merging.add(plugin, wanted(hooks=nri.Hooks(prestart=[nri.Hook(path=path)])))
    assert [hook.path for hook in merging.merged.hooks.prestart] == ["/a", "/b"]
    assert merging.owners.of(ID, nri.OciHooks) == "10-a,20-b"
    assert merging.owners.names(ID) == {"10-a", "20-b"}


def test_a_plugin_that_wants_nothing_owns_nothing(merging: Adjustments) -> None:
    merging.add("10-a", nri.CreateContainerResponse(adjust=nri.ContainerAdjustment()))
    assert merging.owners.names(ID) == set()


def test_the_container_that_is_created_is_not_updated_but_adjusted(merging: Adjustments) -> None:
    with pytest.raises(AdjustmentImpossible, match=r"10-a.*being created: adjust it instead"):
        merging.add(
            "10-a", nri.CreateContainerResponse(update=[nri.ContainerUpdate(container_id=ID)])
        )


def update(limit: int, *, ignore: bool = False) -> nri.ContainerUpdate:
    made = nri.ContainerUpdate(container_id="other", ignore_failure=ignore)
    made.linux.resources.memory.limit.value = limit
    return made


def test_updates_of_one_container_become_one(merging: Adjustments) -> None:
    merging.add("10-a", nri.CreateContainerResponse(update=[update(5, ignore=True)]))
    other = nri.ContainerUpdate(container_id="other")
    other.linux.resources.cpu.shares.value = 7
    merging.add("20-b", nri.CreateContainerResponse(update=[other]))
    ((who, merged),) = merging.updates.others()
    assert who == "10-a, 20-b"
    assert merged.linux.resources.memory.limit.value == 5
    assert merged.linux.resources.cpu.shares.value == 7
    assert not merged.ignore_failure


def test_an_update_in_conflict_fails_unless_its_failure_may_be_ignored() -> None:
    updates = Updates(Owners())
    updates.add("10-a", [update(5)])
    updates.add("20-b", [update(6, ignore=True)])
    with pytest.raises(PluginsDisagree, match="MemLimit"):
        updates.add("20-b", [update(6)])
    assert [one.linux.resources.memory.limit.value for _, one in updates.others()] == [5]


def test_owners_are_told_as_validators_read_them(merging: Adjustments) -> None:
    merging.add("10-a", wanted(args=["x"], env=[nri.KeyValue(key="A", value="1")]))
    told = merging.owners.message().owners[ID]
    assert told.simple[nri.Args] == "10-a"
    assert told.compound[nri.Env].owners["A"] == "10-a"


def test_zero_is_a_wish_and_absence_is_none() -> None:
    there = nri.LinuxResources()
    there.memory.limit.value = 5
    there.cpu.quota.value = 6
    zero = nri.LinuxResources()
    zero.memory.limit.value = 0
    zero.memory.limit.SetInParent()
    resources.merge(there, zero)
    assert (there.memory.limit.value, there.cpu.quota.value) == (0, 6)


def test_resources_go_to_cri_and_back() -> None:
    said = nri.LinuxResources(unified={"memory.high": "9"})
    said.memory.limit.value, said.memory.swap.value = 1, 2
    said.cpu.shares.value, said.cpu.quota.value, said.cpu.period.value = 3, -1, 5
    said.cpu.cpus, said.cpu.mems = "0-1", "0"
    said.hugepage_limits.add(page_size="2MB", limit=8)
    assert resources.from_cri(resources.to_cri(said)) == said
    assert resources.beyond_cri(said) == []
    said.pids.limit = 7
    assert [where for _, where in resources.beyond_cri(said)] == ["pids.limit"]
    assert resources.without_cri(said) == nri.LinuxResources(
        cpu=nri.LinuxCPU(), memory=nri.LinuxMemory(), pids=nri.LinuxPids(limit=7)
    )


def test_numbers_too_large_for_cri_are_the_largest() -> None:
    said = nri.LinuxResources()
    said.cpu.shares.value = (1 << 64) - 1
    assert resources.to_cri(said).cpu_shares == (1 << 63) - 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.integers(1, 9))
def test_pieces_come_out_as_they_went_in_however_they_are_cut(
    pieces: list[tuple[int, bytes]], step: int
) -> None:
    sent = b"".join(part for to, data in pieces for part in framed(to, data))
    demux = Demux()
    got: list[Piece] = []
    for start in range(0, len(sent), step):
        got += demux.feed(sent[start : start + step])
    assert got == [Piece(to, data) for to, data in pieces if data]


def test_long_data_is_cut_into_pieces() -> None:
    parts = list(framed(1, bytes(MAX_PIECE + 5)))
    assert [len(part) - 8 for part in parts] == [MAX_PIECE, 5]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"\0\0\0\1\xff\xff\xff\xff", "4294967295 bytes"),
        (b"\0\0\0\3\0\0\0\1", "conversation 3"),
        (b"\0\0\0\0\0\0\0\1", "conversation 0"),
        (b"GET / HT", "bytes"),
    ],
)
def test_a_header_that_nobody_sends_ends_it(header: bytes, problem: str) -> None:
    with pytest.raises(MuxViolation, match=problem):
        list(Demux().feed(header))
