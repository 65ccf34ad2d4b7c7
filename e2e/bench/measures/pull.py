"""Pull and unpack an image of five layers, 20 000 small files and five large ones."""

import os
import time

from e2e.bench import images
from e2e.bench.client import Client
from e2e.bench.measures.measure import Measure, Row, Samples


def run(client: Client) -> Samples:
    os.sync()  # what others wrote is not this runtime's to flush
    group = client.runtime.group
    begin, cpu = time.perf_counter(), group.cpu_seconds()
    client.pull(images.TREE)
    samples = {"pull": time.perf_counter() - begin, "pull-cpu": group.cpu_seconds() - cpu}
    client.remove_image(images.TREE)
    return samples


MEASURE = Measure(
    "pull",
    (
        Row("pull", "pull and unpack, 5 layers, 20 000 files", "s", must=0.7, aim=0.5),
        Row("pull-cpu", "  CPU time of it", "s"),
    ),
    run, rounds=5, per_daemon=True,
)  # fmt: skip
