"""A pod's life, one at a time: start, stop and remove, and what it costs the processors."""

import time
from statistics import median

from e2e.bench import accounting
from e2e.bench.client import Client
from e2e.bench.measures.measure import Measure, Row, Samples

STARTING = ("RunPodSandbox", "CreateContainer", "StartContainer")
ENDING = ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")
LIVES = 5
_SETTLE_SECONDS = 0.3  # what a runtime still does after its last answer belongs to its own turn


def run(client: Client) -> Samples:
    machine, group = accounting.machine_cpu_seconds(), client.runtime.group.cpu_seconds()
    pods = []
    for _ in range(LIVES):
        pod = client.start_pod()
        client.end_pod(pod)
        pods.append(pod.milliseconds)
    time.sleep(_SETTLE_SECONDS)
    machine, group = (
        accounting.machine_cpu_seconds() - machine,
        client.runtime.group.cpu_seconds() - group,
    )
    samples = {rpc: median(pod[rpc] for pod in pods) for rpc in (*STARTING, *ENDING)}
    return samples | {
        "start": median(sum(pod[rpc] for rpc in STARTING) for pod in pods),
        "end": median(sum(pod[rpc] for rpc in ENDING) for pod in pods),
        "cpu-machine": machine / LIVES * 1e3,
        "cpu-group": group / LIVES * 1e3,
    }


MEASURE = Measure(
    "pod-life",
    (
        Row("start", "pod start, one at a time", "ms", must=0.2, aim=0.1),
        *(Row(rpc, f"  {rpc}", "ms") for rpc in STARTING),
        Row("end", "pod stop and remove", "ms", must=0.2, aim=0.1),
        *(Row(rpc, f"  {rpc}", "ms") for rpc in ENDING),
        Row("cpu-machine", "CPU time of the machine per pod life", "ms", must=0.2, aim=0.1),
        Row("cpu-group", "  of it in the runtime's and pod's processes", "ms", must=0.2, aim=0.1),
    ),
    run, rounds=8,
)  # fmt: skip
