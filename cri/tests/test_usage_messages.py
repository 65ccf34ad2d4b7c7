"""Numbers as CRI's messages: what is absent, and parts that make one message when put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cri.api import api_pb2 as api
from cri.rpc import usage_messages
from cri.tests.records import container, sandbox
from cri.tests.test_metric_families import MEMORY, NOW, PRESSURE, SECOND, USAGE
from image.writable import Occupancy
from network.result import Traffic
from runtime.cgroup.usage import CpuTime, Memory, Usage

WRITTEN = Occupancy(5000, 6, True, NOW - SECOND, 0.1)


def made(usage: Usage | None, written: Occupancy | None = None) -> api.ContainerStats:
    return api.ContainerStats.FromString(usage_messages.container(usage, written, "/var/lib/p"))


@given(st.integers(1, 1000), st.binary(max_size=40000))
def test_a_field_is_what_protobuf_takes_for_one(number: int, data: bytes) -> None:
    """Read back as one of length, whatever its number: an unknown one is kept as it came."""
    message = api.UInt64Value.FromString(usage_messages.field(number + 100, data))
    assert message.SerializeToString() == usage_messages.field(number + 100, data)
    echo = api.ExecSyncResponse.FromString(usage_messages.field(1, data))
    assert echo.stdout == data


def test_parts_put_together_are_one_message() -> None:
    one = container("s1", a="b")
    piece = one.attributes + usage_messages.container(USAGE, WRITTEN, "/var/lib/p")
    answer = api.ListContainerStatsResponse.FromString(usage_messages.field(1, piece) * 2)
    assert len(answer.stats) == 2
    for stats in answer.stats:
        assert stats.attributes.id == one.id
        assert stats.attributes.metadata == one.config.metadata
        assert stats.attributes.labels == one.config.labels
        assert stats.cpu.usage_core_nano_seconds.value == USAGE.cpu.usage
        assert stats.writable_layer.fs_id.mountpoint == "/var/lib/p"


def test_a_sandbox_has_its_attributes_at_hand() -> None:
    one = sandbox("s1")
    stats = api.PodSandboxStats.FromString(one.attributes)
    assert stats.attributes.id == one.id
    assert stats.attributes.metadata == one.config.metadata
    assert not stats.HasField("linux")


def test_all_that_is_known_is_told() -> None:
    stats = made(USAGE, WRITTEN)
    assert stats.cpu.timestamp == stats.memory.timestamp == stats.swap.timestamp == NOW
    assert stats.memory.usage_bytes.value == 100
    assert stats.memory.working_set_bytes.value == 70
    assert stats.memory.available_bytes.value == 130
    assert stats.memory.rss_bytes.value == 40
    assert stats.memory.page_faults.value == 7
    assert stats.memory.major_page_faults.value == 2
    assert stats.swap.swap_usage_bytes.value == 5
    assert stats.swap.swap_available_bytes.value == 45
    for psi in (stats.cpu.psi, stats.memory.psi, stats.io.psi):
        assert (psi.Some.Total, psi.Full.Total) == (PRESSURE.some.total, PRESSURE.full.total)
    assert stats.writable_layer.timestamp == WRITTEN.taken_at  # and not that of the call
    assert stats.writable_layer.used_bytes.value == 5000
    assert stats.writable_layer.inodes_used.value == 6


def test_what_the_kernel_does_not_say_is_absent_and_not_zero() -> None:
    stats = made(Usage(NOW, CpuTime(0)))
    assert stats.cpu.HasField("usage_core_nano_seconds")  # zero is a number
    assert not stats.cpu.HasField("usage_nano_cores")
    assert not stats.cpu.HasField("psi")
    for name in ("memory", "swap", "io", "writable_layer"):
        assert not stats.HasField(name)
    bare = Memory(1, 0, 0, 1, 0, 0, 0, 0)
    stats = made(Usage(NOW, CpuTime(0), bare))
    assert not stats.memory.HasField("available_bytes")
    assert not stats.HasField("swap")


def test_a_rate_is_told_once_there_is_one() -> None:
    stats = made(Usage(NOW, CpuTime(9), MEMORY, rate=SECOND // 2))
    assert stats.cpu.usage_nano_cores.value == SECOND // 2


def test_a_container_that_does_not_run_has_what_it_wrote() -> None:
    stats = made(None, WRITTEN)
    assert not stats.HasField("cpu")
    assert stats.writable_layer.used_bytes.value == 5000
    assert made(None).ByteSize() == 0


def test_the_default_interface_is_told_apart_from_others() -> None:
    traffic = {"net1": Traffic(rx_bytes=1), "eth0": Traffic(rx_bytes=2, tx_errors=3)}
    usage = api.NetworkUsage(**usage_messages.network(traffic, NOW))  # type: ignore[arg-type]
    assert usage.default_interface.name == "eth0"
    assert usage.default_interface.rx_bytes.value == 2
    assert usage.default_interface.tx_errors.value == 3
    assert [one.name for one in usage.interfaces] == ["net1"]
    usage = api.NetworkUsage(**usage_messages.network({"net1": Traffic()}, NOW))  # type: ignore[arg-type]
    assert not usage.HasField("default_interface")
