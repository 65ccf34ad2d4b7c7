"""Fifty pods: what one adds to memory, and how fast they are listed."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cri.api import api_pb2 as api
from e2e.bench import accounting
from e2e.bench.client import WORKLOAD, Client, NotImplementedByRuntime
from e2e.bench.measures.measure import Measure, Row, Samples

_PODS, _CALLS = 50, 20


def run(client: Client) -> Samples:
    before = accounting.processes()
    with ThreadPoolExecutor(4) as threads:
        pods = list(threads.map(lambda _: client.start_pod(), range(_PODS)))
    workload = " ".join(WORKLOAD)
    new = {pid: line for pid, line in accounting.processes().items() if pid not in before}
    assert sum(line == workload for line in new.values()) == _PODS, f"not {_PODS} workloads: {new}"
    ours = [pid for pid, line in new.items() if line != workload]
    samples = {"pss": sum(map(accounting.pss_bytes, ours)) / _PODS / (1 << 20)}
    samples |= _lists(client)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(client.end_pod, pods))
    return samples


def _lists(client: Client) -> dict[str, float]:
    def containers() -> int:
        answer = client.call(
            "ListContainers", api.ListContainersRequest(), api.ListContainersResponse
        )
        return len(answer.containers)

    def sandboxes() -> int:
        answer = client.call(
            "ListPodSandbox", api.ListPodSandboxRequest(), api.ListPodSandboxResponse
        )
        return len(answer.items)

    def stats() -> int:
        answer = client.call(
            "ListContainerStats", api.ListContainerStatsRequest(), api.ListContainerStatsResponse
        )
        return len(answer.stats)

    samples = {}
    for key, call in (("containers", containers), ("sandboxes", sandboxes), ("stats", stats)):
        try:
            samples[key] = _milliseconds(call)
        except NotImplementedByRuntime:
            continue
    return samples


def _milliseconds(call: Callable[[], int]) -> float:
    times = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        count = call()
        times.append((time.perf_counter() - begin) * 1e3)
        assert count == _PODS, f"{count} listed, {_PODS} exist"
    return statistics.median(times)


MEASURE = Measure(
    "density",
    (
        Row("pss", "memory per pod with 50 pods (PSS)", "MiB", must=0.6, aim=0.3),
        Row("containers", "ListContainers, 50 containers", "ms", must=2.0, aim=1.0),
        Row("sandboxes", "ListPodSandbox, 50 pods", "ms", must=2.0, aim=1.0),
        Row("stats", "ListContainerStats, 50 containers", "ms", must=0.2, aim=0.05),
    ),
    run, rounds=1,
)  # fmt: skip
