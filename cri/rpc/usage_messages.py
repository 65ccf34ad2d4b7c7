"""Numbers as CRI's messages, and parts of messages as bytes. Pure.

Most of an answer never changes and is at hand as bytes (`record.attributes`); protobuf allows parts
of a message to be put one after the other, so that a call makes the numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from image.writable import Occupancy
    from network.result import Traffic
    from runtime.usage import Memory, Pressure, Stall, Usage

Message = Mapping[str, object]  # protobuf takes a mapping for a message; None: not there
DEFAULT_INTERFACE = "eth0"


def field(number: int, message: bytes) -> bytes:
    """A field that holds a message (protobuf.dev/programming-guides/encoding: wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(message)) + message


def container(usage: Usage | None, written: Occupancy | None, mountpoint: str) -> bytes:
    """The part of a ContainerStats that changes; of a container that doesn't run, little."""
    layer = None if written is None else filesystem(written, mountpoint)
    if usage is None:
        return api.ContainerStats(writable_layer=layer).SerializeToString()
    at = usage.timestamp
    return api.ContainerStats(
        cpu=cpu(usage),
        memory=memory(usage),
        writable_layer=layer,
        swap=None if usage.memory is None else _swap(usage.memory, at),
        io=io(usage),
    ).SerializeToString()


def cpu(usage: Usage) -> Message:
    """As CpuUsage."""
    return {
        "timestamp": usage.timestamp,
        "usage_core_nano_seconds": {"value": usage.cpu.usage},
        "usage_nano_cores": _number(usage.rate),
        "psi": _psi(usage.cpu.pressure),
    }


def memory(usage: Usage) -> Message | None:
    """As MemoryUsage."""
    found = usage.memory
    if found is None:
        return None
    return {
        "timestamp": usage.timestamp,
        "working_set_bytes": {"value": found.working_set},
        "available_bytes": _number(found.available),
        "usage_bytes": {"value": found.usage},
        "rss_bytes": {"value": found.rss},
        "page_faults": {"value": found.page_faults},
        "major_page_faults": {"value": found.major_page_faults},
        "psi": _psi(found.pressure),
    }


def io(usage: Usage) -> Message | None:
    """As IoUsage: pressure is all that it has."""
    if usage.io_pressure is None:
        return None
    return {"timestamp": usage.timestamp, "psi": _psi(usage.io_pressure)}


def filesystem(written: Occupancy, mountpoint: str) -> Message:
    """As FilesystemUsage, of the moment at which it was counted."""
    return {
        "timestamp": written.taken_at,
        "fs_id": {"mountpoint": mountpoint},
        "used_bytes": {"value": written.bytes},
        "inodes_used": {"value": written.inodes},
    }


def network(traffic: Mapping[str, Traffic], timestamp: int) -> Message:
    """As NetworkUsage: `interfaces` has those which aren't the default one."""
    interfaces = {name: _interface(name, found) for name, found in sorted(traffic.items())}
    default = interfaces.pop(DEFAULT_INTERFACE, None)
    return {
        "timestamp": timestamp,
        "default_interface": default,
        "interfaces": list(interfaces.values()),
    }


def _interface(name: str, traffic: Traffic) -> Message:
    return {
        "name": name,
        "rx_bytes": {"value": traffic.rx_bytes},
        "rx_errors": {"value": traffic.rx_errors},
        "tx_bytes": {"value": traffic.tx_bytes},
        "tx_errors": {"value": traffic.tx_errors},
    }


def _swap(found: Memory, timestamp: int) -> Message | None:
    if found.swap is None:
        return None
    return {
        "timestamp": timestamp,
        "swap_available_bytes": _number(found.swap_available),
        "swap_usage_bytes": {"value": found.swap},
    }


def _psi(pressure: Pressure | None) -> Message | None:
    return (
        None if pressure is None else {"Full": _stall(pressure.full), "Some": _stall(pressure.some)}
    )


def _stall(stall: Stall) -> Message:
    return {
        "Total": stall.total,
        "Avg10": stall.avg10,
        "Avg60": stall.avg60,
        "Avg300": stall.avg300,
    }


def _number(value: int | None) -> Message | None:
    return None if value is None else {"value": value}


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
