"""Whole lives of pods, ten at a time."""

import time
from concurrent.futures import ThreadPoolExecutor

from e2e.bench.client import Client
from e2e.bench.measures.measure import Measure, Row, Samples

_AT_A_TIME, _LIVES = 10, 40


def run(client: Client) -> Samples:
    def live(_: int) -> None:
        client.end_pod(client.start_pod())

    begin = time.perf_counter()
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(live, range(_LIVES)))
    return {"parallel": _LIVES / (time.perf_counter() - begin)}


MEASURE = Measure(
    "parallel",
    (Row("parallel", "whole pod lives, 10 at a time", "pods/s", "more", 5, 10),),
    run,
    rounds=3,
)
