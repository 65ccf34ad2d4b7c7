"""podwright stats: what pods and their containers use at this moment."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from cri.api import api_pb2 as api
from cri.cli import find, show
from cri.cli.client import Client, connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADERS = ("POD", "CPU", "MEMORY", "WRITTEN", "RECEIVED", "SENT", "PROCESSES")
SECOND = 1.05
"""Between two samples, so that there is a rate."""
UNKNOWN = "-"


@click.command(name="stats")
@click.argument("pods", nargs=-1, metavar="[POD...]")
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table")
def command(pods: tuple[str, ...], output: str) -> None:
    """Show what pods use: CPU in cores, memory without unused page cache, what was written.

    CPU is a mean since kubelet, or whoever it was, asked last; if nobody has, over one second.
    """
    with connect() as client:
        wanted = {find.sandbox(client, word).id for word in pods}
        found = _stats(client, wanted)
        if any(map(_lacks_rate, found)):
            time.sleep(SECOND)
            found = _stats(client, wanted)
    if output == "json":
        click.echo(json.dumps([_as_json(pod) for pod in found], indent=2))
    else:
        show.columns(HEADERS, [row for pod in found for row in _rows(pod)])


def _stats(client: Client, wanted: set[str]) -> list[api.PodSandboxStats]:
    """Of pods that are ready; of all of them, if none is named."""
    answer = client.call(
        "ListPodSandboxStats", api.ListPodSandboxStatsRequest(), api.ListPodSandboxStatsResponse
    )
    return [
        pod
        for pod in answer.stats
        if (pod.attributes.id in wanted if wanted else pod.linux.HasField("process"))
    ]


def _lacks_rate(pod: api.PodSandboxStats) -> bool:
    usages: list[api.LinuxPodSandboxStats | api.ContainerStats] = [pod.linux]
    usages += pod.linux.containers
    return any(one.HasField("cpu") and not one.cpu.HasField("usage_nano_cores") for one in usages)


def _rows(pod: api.PodSandboxStats) -> Iterator[Sequence[str]]:
    """One of the pod, one of each of its containers that runs."""
    linux = pod.linux
    network = linux.network.default_interface if linux.HasField("network") else None
    yield (
        find.pod_name(pod.attributes),
        _cpu(linux),
        _memory(linux),
        "",
        show.size(network.rx_bytes.value) if network else UNKNOWN,
        show.size(network.tx_bytes.value) if network else UNKNOWN,
        str(linux.process.process_count.value),
    )
    for one in linux.containers:
        if one.HasField("cpu"):
            layer = one.writable_layer
            written = show.size(layer.used_bytes.value) if layer.timestamp else UNKNOWN
            yield f"  {one.attributes.metadata.name}", _cpu(one), _memory(one), written, "", "", ""


def _cpu(usage: api.LinuxPodSandboxStats | api.ContainerStats) -> str:
    if not usage.cpu.HasField("usage_nano_cores"):
        return UNKNOWN
    return f"{usage.cpu.usage_nano_cores.value / 1e9:.3f}"


def _memory(usage: api.LinuxPodSandboxStats | api.ContainerStats) -> str:
    """What is in use, and of how much, if there is a limit."""
    if not usage.HasField("memory"):
        return UNKNOWN
    working = usage.memory.working_set_bytes.value
    if not usage.memory.HasField("available_bytes"):
        return show.size(working)
    return f"{show.size(working)} of {show.size(working + usage.memory.available_bytes.value)}"


def _as_json(pod: api.PodSandboxStats) -> dict[str, object]:
    linux = pod.linux
    return {
        "id": pod.attributes.id,
        "namespace": pod.attributes.metadata.namespace,
        "name": pod.attributes.metadata.name,
        **_numbers(linux),
        "received_bytes": linux.network.default_interface.rx_bytes.value,
        "sent_bytes": linux.network.default_interface.tx_bytes.value,
        "processes": linux.process.process_count.value,
        "containers": [
            {
                "id": one.attributes.id,
                "name": one.attributes.metadata.name,
                **_numbers(one),
                "written_bytes": one.writable_layer.used_bytes.value,
            }
            for one in linux.containers
            if one.HasField("cpu")
        ],
    }


def _numbers(usage: api.LinuxPodSandboxStats | api.ContainerStats) -> dict[str, object]:
    return {
        "cpu_nanoseconds": usage.cpu.usage_core_nano_seconds.value,
        "cpu_nano_cores": usage.cpu.usage_nano_cores.value,
        "working_set_bytes": usage.memory.working_set_bytes.value,
    }
