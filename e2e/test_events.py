"""What happens is told to all who watch: in order, once, with the pod; and after a kill -9, too."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.events import MOST_WAITING
from e2e.kubelet import Kubelet, Pod, until
from e2e.node import Node
from e2e.watching import Watch

QUICK = 0.5
"""Seconds for a list of a few pods on a busy machine; one that waits for a reader takes minutes."""


@pytest.fixture(autouse=True)
def running_daemon(node: Node) -> Iterator[None]:
    """A test that stops half way must not leave the session without a daemon."""
    yield
    if node.daemon is None or node.daemon.process.poll() is not None:
        node.start_daemon()


def life(kubelet: Kubelet) -> tuple[Pod, str]:
    """A pod in which one container runs to its end; stopped and removed."""
    pod = kubelet.pod()
    container = pod.container(["true"]).start()
    container.wait()
    pod.remove()
    return pod, container.id


def test_a_pods_life_is_told_in_its_order(kubelet: Kubelet, node: Node) -> None:
    with Watch(node).read() as watch:
        pod, main = life(kubelet)
        watch.until_told(pod.id, "DELETED", pod.id)
    assert watch.told(pod.id) == [
        ("CREATED", pod.id),
        ("STARTED", pod.id),
        ("CREATED", main),
        ("STARTED", main),
        ("STOPPED", main),
        ("STOPPED", pod.id),
        ("DELETED", main),
        ("DELETED", pod.id),
    ]
    events = watch.of(pod.id)
    assert all(a.created_at < b.created_at for a, b in itertools.pairwise(events))
    assert {event.pod_sandbox_status.metadata.uid for event in events} == {pod.config.metadata.uid}
    running, exited = (event.containers_statuses[0] for event in events[3:5])
    assert (running.state, exited.state) == (api.CONTAINER_RUNNING, api.CONTAINER_EXITED)
    assert 0 < running.started_at == exited.started_at <= exited.finished_at
    assert events[1].pod_sandbox_status.network.ip
    states = [event.pod_sandbox_status.state for event in events]
    assert states == [api.SANDBOX_READY] * 5 + [api.SANDBOX_NOTREADY] * 3


def test_a_status_is_as_young_as_it_says_and_has_the_whole_pod(
    kubelet: Kubelet, node: Node
) -> None:
    with Watch(node).read() as watch:
        pod = kubelet.pod()
        container = pod.container().start()
        watch.until_told(pod.id, "STARTED", container.id)
        response = pod.response()
        assert response.timestamp > watch.of(pod.id)[-1].created_at
        assert [one.id for one in response.containers_statuses] == [container.id]
        assert response.containers_statuses[0] == container.status()


def test_all_who_watch_are_told_the_same(kubelet: Kubelet, node: Node) -> None:
    with Watch(node).read() as one, Watch(node).read() as two:
        pod, _ = life(kubelet)
        for watch in (one, two):
            watch.until_told(pod.id, "DELETED", pod.id)
        assert one.of(pod.id) == two.of(pod.id)


def test_what_happened_while_nobody_watched_is_told_to_the_next(
    kubelet: Kubelet, node: Node
) -> None:
    pod, _ = life(kubelet)
    with Watch(node).read() as watch:
        watch.until_told(pod.id, "DELETED", pod.id)
        assert len(watch.of(pod.id)) == 8


def test_who_does_not_read_is_told_to_list_anew_and_holds_nobody_up(
    kubelet: Kubelet, node: Node
) -> None:
    config = kubelet.config(annotations={"large": "x" * 100_000})
    with Watch(node) as slow, Watch(node).read() as quick:
        pod = kubelet.pod(config)

        def come_and_go(_: int) -> None:
            pod.container().remove()

        lives = MOST_WAITING // 2 + 100
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(come_and_go, range(lives)))
        began = time.monotonic()
        kubelet.sandboxes()
        assert time.monotonic() - began < QUICK
        until(lambda: len(quick.of(pod.id)) == 2 + 2 * lives, "the other one was told everything")
        assert quick.end is None
        assert slow.read().ended() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "list sandboxes and containers, and watch again" in slow.details
        assert len(slow.events) < 100


def test_exits_that_no_daemon_saw_are_told_by_the_next(
    kubelet: Kubelet, node: Node, tmp_path: Path
) -> None:
    pod = kubelet.pod()
    flag = api.Mount(container_path="/flag", host_path=str(tmp_path))
    script = "until [ -e /flag/go ]; do usleep 10000; done; exit 42"
    container = pod.container(["sh", "-c", script], mounts=[flag]).start()
    lasting = pod.container().start()
    with Watch(node).read() as before:
        before.until_told(pod.id, "STARTED", lasting.id)
        assert node.daemon is not None
        node.daemon.kill()
        assert before.ended() is not grpc.StatusCode.OK  # it must list anew, and knows it
    (tmp_path / "go").touch()
    exits = node.state / "monitors" / pod.id / "exits"
    until(lambda: (exits / f"{container.id}.json").exists(), "its end is written down")
    node.start_daemon()
    with Watch(node).read() as after:
        after.until_told(pod.id, "STOPPED", container.id)
        assert after.told(pod.id) == [("STOPPED", container.id)]
        (told,) = after.of(pod.id)
        states = {one.id: (one.state, one.exit_code) for one in told.containers_statuses}
        assert states == {
            container.id: (api.CONTAINER_EXITED, 42),
            lasting.id: (api.CONTAINER_RUNNING, 0),
        }
        assert told.created_at > before.of(pod.id)[-1].created_at
        lasting.stop()
        after.until_told(pod.id, "STOPPED", lasting.id)


def test_a_daemon_that_stops_ends_the_streams_and_does_not_wait_for_them(
    kubelet: Kubelet, node: Node
) -> None:
    pod = kubelet.pod()
    with Watch(node).read() as watch:
        watch.until_told(pod.id, "STARTED", pod.id)
        assert node.daemon is not None
        began = time.monotonic()
        node.daemon.process.send_signal(signal.SIGTERM)
        assert watch.ended() is grpc.StatusCode.OK
        node.daemon.process.wait(20)
        assert time.monotonic() - began < 4  # it would be 5 for a call under way
    node.start_daemon()
