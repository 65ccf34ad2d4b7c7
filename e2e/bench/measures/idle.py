"""The daemon's memory while nothing runs, after it has had time to give back what a pull took."""

import time

from e2e.bench import accounting
from e2e.bench.client import Client
from e2e.bench.measures.measure import Measure, Row, Samples

_REST_SECONDS = 15


def run(client: Client) -> Samples:
    time.sleep(_REST_SECONDS)
    pids = client.runtime.group.daemon_pids()
    return {"idle": sum(map(accounting.pss_bytes, pids)) / (1 << 20)}


MEASURE = Measure(
    "idle-memory",
    (Row("idle", "daemon idle, PSS of its processes", "MiB", must=1.5, aim=1.0),),
    run, rounds=1, per_daemon=True,
)  # fmt: skip
