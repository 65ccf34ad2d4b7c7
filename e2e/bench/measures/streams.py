"""Streams over SPDY, as kubectl has them: throughput and round trips, of exec and of ports."""

import statistics
import time
from collections.abc import Callable

from cri.api import api_pb2 as api
from e2e.bench import images
from e2e.bench.client import Client, Pod
from e2e.bench.measures.measure import Measure, Row, Samples
from e2e.spdy_client import Command, SpdyClient

_COPIES = 54
_BYTES = _COPIES * images.LOG_LINES_IN_FILE * 100  # 1.08 GB, a little more than 1 GiB
_FILES = ["/lines"] * _COPIES
_TRIPS = 300
_FLOOD, _ECHO = 7000, 7001  # ports of the pod
_SCRIPT = f"nc -ll -p {_ECHO} -e cat & exec nc -ll -p {_FLOOD} -e cat {' '.join(_FILES)}"


def run(client: Client) -> Samples:
    pod = client.start_pod(("/bin/sh", "-c", _SCRIPT))
    try:
        return {
            "exec-cat": _exec_cat(client, pod),
            "exec-trip": _exec_trip(client, pod),
            "port-flood": _port_flood(client, pod),
            "port-trip": _port_trip(client, pod),
        }
    finally:
        client.end_pod(pod)


def _exec(client: Client, pod: Pod, command: list[str], *, stdin: bool) -> SpdyClient:
    request = api.ExecRequest(
        container_id=pod.container_id, cmd=command, stdin=stdin, stdout=True, stderr=True
    )
    url = client.call("Exec", request, api.ExecResponse).url
    return SpdyClient(url, "v4.channel.k8s.io")


def _exec_cat(client: Client, pod: Pod) -> float:
    with _exec(client, pod, ["cat", *_FILES], stdin=False) as spdy:
        Command(spdy, ["stdout", "stderr"])
        return _megabytes_a_second(spdy)


def _exec_trip(client: Client, pod: Pod) -> float:
    with _exec(client, pod, ["cat"], stdin=True) as spdy:
        command = Command(spdy, ["stdin", "stdout", "stderr"])

        def trip(number: int) -> None:
            command.send(b"x")
            spdy.until(lambda: len(command.received("stdout").data) == number)

        return _trips(trip)


def _port(client: Client, pod: Pod) -> SpdyClient:
    request = api.PortForwardRequest(pod_sandbox_id=pod.sandbox_id)
    url = client.call("PortForward", request, api.PortForwardResponse).url
    return SpdyClient(url, "portforward.k8s.io")


def _connect(spdy: SpdyClient, port: int) -> int:
    """A forwarded connection; the id of its data stream."""
    headers = {"port": str(port), "requestID": "0"}
    spdy.finish(spdy.open({"streamType": "error", **headers}))
    return spdy.open({"streamType": "data", **headers})


def _port_flood(client: Client, pod: Pod) -> float:
    with _port(client, pod) as spdy:
        _connect(spdy, _FLOOD)
        return _megabytes_a_second(spdy)


def _port_trip(client: Client, pod: Pod) -> float:
    with _port(client, pod) as spdy:
        stream = _connect(spdy, _ECHO)

        def trip(number: int) -> None:
            spdy.send(stream, b"x")
            spdy.until(lambda: len(spdy.streams[stream].data) == number)

        return _trips(trip)


def _megabytes_a_second(spdy: SpdyClient) -> float:
    """Until all bytes are here; frames are not looked at, so that the client is no bottleneck."""
    buffer = bytearray(1 << 20)
    received = 0
    begin = time.perf_counter()
    while received < _BYTES:
        count = spdy.socket.recv_into(buffer)
        assert count, f"the stream ends after {received} of {_BYTES} bytes"
        received += count
    return received / 1e6 / (time.perf_counter() - begin)


def _trips(trip: Callable[[int], None]) -> float:
    """The median of some round trips in microseconds; each gets its number, from 1."""
    times = []
    for number in range(1, _TRIPS + 1):
        begin = time.perf_counter()
        trip(number)
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


MEASURE = Measure(
    "streams",
    (
        Row("exec-cat", "exec `cat`, 1 GiB", "MB/s", "more", 1.0),
        Row("exec-trip", "exec, round trip of a byte", "us", must=1.0),
        Row("port-flood", "port-forward, 1 GiB", "MB/s", "more", 1.0),
        Row("port-trip", "port-forward, round trip of a byte", "us", must=1.0),
    ),
    run, rounds=3,
)  # fmt: skip
