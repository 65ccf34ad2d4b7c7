"""What the real kubelet says of the resources that pods use: its summary and its metrics."""

from __future__ import annotations

import json

from e2e.kube import EVERY, NAME, Json, RealKubelet
from e2e.kubelet import until


def statistics(real: RealKubelet, name: str) -> Json:
    """What /stats/summary says of a pod; empty while it says nothing."""
    summary = json.loads(real.get("/stats/summary"))
    named = (pod for pod in summary["pods"] if pod["podRef"]["name"] == f"{name}-{NAME}")
    found: Json = next(named, {})
    return found


def wait_statistics(real: RealKubelet, name: str, patience: float = 30) -> Json:
    """The pod's statistics once its container's are complete."""

    def filled() -> bool:
        (stats,) = statistics(real, name).get("containers", [{}])
        wanted = {"cpu": "usageCoreNanoSeconds", "memory": "workingSetBytes", "rootfs": "usedBytes"}
        return all(stats.get(kind, {}).get(value) for kind, value in wanted.items())

    until(filled, "statistics of the container", patience, every=EVERY)
    return statistics(real, name)


def metric(real: RealKubelet, name: str, pod: str, container: str) -> list[float]:
    """The values of a metric of /metrics/cadvisor; `POD` is the container of the pod's own."""
    labels = (f'pod="{pod}-{NAME}"', f'container="{container}"')
    lines = real.get("/metrics/cadvisor").decode().splitlines()
    chosen = [x for x in lines if x.startswith(f"{name}{{") and all(one in x for one in labels)]
    return [float(line.rpartition("}")[2].split()[0]) for line in chosen]
