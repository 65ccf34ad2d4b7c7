"""ExecSync of a program that does nothing."""

import statistics

from e2e.bench.client import Client
from e2e.bench.measures.measure import Measure, Row, Samples

_TIMES = 10


def run(client: Client) -> Samples:
    pod = client.start_pod()
    samples = []
    for _ in range(_TIMES):
        answer = client.exec(pod, "/bin/true")
        assert answer.exit_code == 0, f"/bin/true answers {answer.exit_code}"
        samples.append(pod.milliseconds["ExecSync"])
    client.end_pod(pod)
    return {"exec": statistics.median(samples)}


MEASURE = Measure("exec", (Row("exec", "ExecSync `true`", "ms", must=0.2, aim=0.1),), run, rounds=6)
