"""How fast a container's output gets into its log: 200 MB of 100-byte lines."""

import datetime
import os
import time
from pathlib import Path

from e2e.bench import images
from e2e.bench.client import Client
from e2e.bench.measures.measure import Measure, Row, Samples

_COPIES = 10
_LINES = _COPIES * images.LOG_LINES_IN_FILE
_MARK = "that was all of it"
_DEADLINE_SECONDS = 120


def run(client: Client) -> Samples:
    """From the first line's time stamp until the last line is in the file; then counts them."""
    script = f"cat {'/lines ' * _COPIES}; echo '{_MARK}'; exec sleep 1000000"
    pod = client.start_pod(("/bin/sh", "-c", script))
    path = client.log_path(pod)
    end = _wait_for_mark(path)
    with path.open("rb") as log:
        begin = seconds(log.readline().split()[0].decode())
        lines = sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 20), b"")) + 1
    assert lines == _LINES + 1, f"{lines} lines in {path}, {_LINES + 1} written"
    client.end_pod(pod)
    path.unlink()
    return {"log": _LINES * 100 / 1e6 / (end - begin)}


def _wait_for_mark(path: Path) -> float:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    tail = f" {_MARK}\n".encode()
    while time.monotonic() < deadline:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - len(tail)))
            if log.read() == tail:
                return time.time()
        time.sleep(0.005)
    raise RuntimeError(f"{path} is not complete after {_DEADLINE_SECONDS} s")


def seconds(stamp: str) -> float:
    """RFC 3339 with nanoseconds, of which microseconds are enough."""
    whole, _, rest = stamp.partition(".")
    digits = rest[:9].rstrip("Z+-:")[:6]
    moment = datetime.datetime.fromisoformat(whole[:19]).replace(tzinfo=datetime.UTC)
    return moment.timestamp() + float("0." + (digits or "0"))


MEASURE = Measure(
    "logs", (Row("log", "log throughput, 100-byte lines", "MB/s", "more", 2, 5),), run, rounds=3
)
