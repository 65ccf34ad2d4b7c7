"""What kubelet does to a runtime all day long, on pods that run.

each second           ListPodSandbox and ListContainers; a status for what has changed
every ten seconds     ListContainerStats and ListPodSandboxStats
five times a second   an exec probe, of one pod after the other
every five seconds    a container is replaced by a new one (a tenth of the pods take turns)
always                GetContainerEvents is read
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from cri.api import api_pb2 as api
from cri.cli.client import CallFailed
from e2e.load.samples import Samples

if TYPE_CHECKING:
    from cri.cli.client import Client
    from e2e.kubelet import Container, Pod

RELIST, STATS, REPLACE = 1.0, 10.0, 5.0
REPLACED, EVENTS = "a container replaced", "GetContainerEvents"
CALLS = (
    "ListPodSandbox",
    "ListContainers",
    "PodSandboxStatus",
    "ContainerStatus",
    "ListContainerStats",
    "ListPodSandboxStats",
    "ExecSync",
    REPLACED,
    EVENTS,
)
PROBES_AT_A_TIME = 50
PROBE_TIMEOUT = 1
"""Seconds; what a probe has unless its pod says otherwise."""


@dataclass(slots=True)
class Restless:
    """A pod whose container is replaced now and then."""

    pod: Pod
    container: Container


@dataclass(slots=True)
class Habits:
    """Threads that ask until the block ends; what they have measured, by RPC."""

    client: Client
    pods: Sequence[tuple[Pod, Container]]
    probes_per_second: float
    samples: dict[str, Samples] = field(default_factory=lambda: {what: Samples() for what in CALLS})
    events: int | None = 0
    """How many came; None: the daemon has none to offer."""
    _end: threading.Event = field(default_factory=threading.Event)
    _seen: dict[str, dict[str, int]] = field(default_factory=dict)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, all of them are kept."""
        restless = max(1, len(self.pods) // 10)
        probed = itertools.cycle(self.pods[restless:] or self.pods)
        replaced = itertools.cycle([Restless(*pair) for pair in self.pods[:restless]])
        beats: list[tuple[float, Callable[[], object]]] = [
            (RELIST, self.relist),
            (STATS, self.stats),
        ]
        if len(self.pods) > restless:
            beats.append((REPLACE, lambda: self.replace(next(replaced))))
        with ThreadPoolExecutor(PROBES_AT_A_TIME) as probes, self._events_read():
            every = 1 / self.probes_per_second
            beats.append((every, lambda: probes.submit(self.probe, next(probed)[1])))
            threads = [threading.Thread(target=self._beat, args=beat) for beat in beats]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._end.set()
                for thread in threads:
                    thread.join()

    def _beat(self, seconds: float, work: Callable[[], object]) -> None:
        """Calls `work` at fixed times; those which it has missed are left out."""
        due = time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            work()
            due = max(due + seconds, time.monotonic())

    def relist(self) -> None:
        """Both lists, and a status of every pod of which something has changed since the last."""
        now: dict[str, dict[str, int]] = {}
        with self.samples["ListPodSandbox"].timed():
            sandboxes = self.client.call(
                "ListPodSandbox", api.ListPodSandboxRequest(), api.ListPodSandboxResponse
            )
            now = {one.id: {one.id: one.state} for one in sandboxes.items}
            self._expect_all(len(now))
        with self.samples["ListContainers"].timed():
            containers = self.client.call(
                "ListContainers", api.ListContainersRequest(), api.ListContainersResponse
            )
            self._expect_all(len(containers.containers), but=1)
            for one in containers.containers:
                now.setdefault(one.pod_sandbox_id, {})[one.id] = one.state
        for sandbox_id, states in now.items():
            if self._seen.get(sandbox_id, states) != states:
                self._look_at(sandbox_id, states)
        self._seen = now

    def _look_at(self, sandbox_id: str, states: dict[str, int]) -> None:
        with self.samples["PodSandboxStatus"].timed():
            request = api.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
            self.client.call("PodSandboxStatus", request, api.PodSandboxStatusResponse)
        for container_id in states.keys() - {sandbox_id}:
            with self.samples["ContainerStatus"].timed(), _gone_is_well():
                of_one = api.ContainerStatusRequest(container_id=container_id)
                self.client.call("ContainerStatus", of_one, api.ContainerStatusResponse)

    def stats(self) -> None:
        with self.samples["ListContainerStats"].timed():
            request = api.ListContainerStatsRequest()
            answer = self.client.call("ListContainerStats", request, api.ListContainerStatsResponse)
            self._expect_all(len(answer.stats), but=1)
        with self.samples["ListPodSandboxStats"].timed():
            of_pods = api.ListPodSandboxStatsRequest()
            told = self.client.call("ListPodSandboxStats", of_pods, api.ListPodSandboxStatsResponse)
            self._expect_all(len(told.stats))

    def _expect_all(self, found: int, *, but: int = 0) -> None:
        """A list that lacks somebody has failed. `but`: so many may be missing, as a container that
        is being replaced is."""
        if found < len(self.pods) - but:
            text = f"{found} are listed, {len(self.pods)} are there"
            raise CallFailed(text, grpc.StatusCode.DATA_LOSS)

    def probe(self, container: Container) -> None:
        with self.samples["ExecSync"].timed():
            code = container.exec("true", timeout=PROBE_TIMEOUT).exit_code
            if code != 0:
                raise CallFailed(f"the probe ends with code {code}", grpc.StatusCode.UNKNOWN)

    def replace(self, restless: Restless) -> None:
        """The container ends, is removed, and another takes its place in the pod."""
        with self.samples[REPLACED].timed():
            restless.container.stop()
            restless.container.remove()
            restless.container = restless.pod.container().start()

    @contextlib.contextmanager
    def _events_read(self) -> Iterator[None]:
        """GetContainerEvents, read as it comes while inside."""
        with grpc.insecure_channel(self.client.address) as channel:
            method = channel.unary_stream(
                "/runtime.v1.RuntimeService/GetContainerEvents",
                request_serializer=api.GetEventsRequest.SerializeToString,
                response_deserializer=api.ContainerEventResponse.FromString,
            )
            stream = method(api.GetEventsRequest())
            reader = threading.Thread(target=self._count, args=[stream])
            reader.start()
            try:
                yield
            finally:
                stream.cancel()
                reader.join()

    def _count(self, stream: Iterator[api.ContainerEventResponse]) -> None:
        try:
            for _ in stream:
                assert self.events is not None
                self.events += 1
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            if code is grpc.StatusCode.UNIMPLEMENTED:
                self.events = None
            elif code is not grpc.StatusCode.CANCELLED:
                self.samples[EVENTS].fail(str(error))


@contextlib.contextmanager
def _gone_is_well() -> Iterator[None]:
    """Between a list and a status a container may be removed: kubelet thinks nothing of it."""
    try:
        yield
    except CallFailed as error:
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise
