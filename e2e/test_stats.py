"""What containers and pods use, as kubelet and crictl ask for it."""

from __future__ import annotations

import json
import threading
import time

import grpc
import pytest
from click.testing import CliRunner

from cri.api import api_pb2 as api
from cri.cli.main import main
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node

MIB = 1 << 20
COUNTED = 30.0
"""Seconds within which a writable layer is counted anew; it takes ten, if nobody else works."""


def stats(container: Container) -> api.ContainerStats:
    request = api.ContainerStatsRequest(container_id=container.id)
    client = container.kubelet.client
    return client.call("ContainerStats", request, api.ContainerStatsResponse).stats


def listed(kubelet: Kubelet, **filters: object) -> list[api.ContainerStats]:
    wanted = api.ContainerStatsFilter(**filters)  # type: ignore[arg-type]  # fields by name
    request = api.ListContainerStatsRequest(filter=wanted)
    answer = kubelet.client.call("ListContainerStats", request, api.ListContainerStatsResponse)
    return list(answer.stats)


def pod_stats(pod: Pod) -> api.PodSandboxStats:
    request = api.PodSandboxStatsRequest(pod_sandbox_id=pod.id)
    return pod.kubelet.client.call("PodSandboxStats", request, api.PodSandboxStatsResponse).stats


def pods_listed(kubelet: Kubelet, **filters: object) -> list[api.PodSandboxStats]:
    wanted = api.PodSandboxStatsFilter(**filters)  # type: ignore[arg-type]  # fields by name
    request = api.ListPodSandboxStatsRequest(filter=wanted)
    answer = kubelet.client.call("ListPodSandboxStats", request, api.ListPodSandboxStatsResponse)
    return list(answer.stats)


def metrics(kubelet: Kubelet) -> list[api.PodSandboxMetrics]:
    request = api.ListPodSandboxMetricsRequest()
    answer = kubelet.client.call(
        "ListPodSandboxMetrics", request, api.ListPodSandboxMetricsResponse
    )
    return list(answer.pod_metrics)


def descriptors(kubelet: Kubelet) -> dict[str, list[str]]:
    request = api.ListMetricDescriptorsRequest()
    answer = kubelet.client.call(
        "ListMetricDescriptors", request, api.ListMetricDescriptorsResponse
    )
    return {one.name: list(one.label_keys) for one in answer.descriptors}


def now_within(timestamp: int, seconds: float = 5) -> bool:
    return 0 <= time.time_ns() - timestamp < seconds * 1e9


def limited(pod: Pod, command: list[str], *, memory: int, swap: int = 0) -> Container:
    linux = api.LinuxContainerConfig(
        resources=api.LinuxContainerResources(
            memory_limit_in_bytes=memory, memory_swap_limit_in_bytes=swap
        )
    )
    return pod.container(command, linux=linux).start()


def test_cpu_time_grows_under_load_and_its_rate_is_about_right(pod: Pod) -> None:
    idle = pod.container().start()
    busy = pod.container(["sh", "-c", "while true; do :; done"]).start()
    first = stats(busy).cpu
    assert now_within(first.timestamp)
    assert not first.HasField("usage_nano_cores")  # of one moment there is no rate
    stats(idle)
    until(lambda: stats(busy).cpu.HasField("usage_nano_cores"), "a second sample a second later")
    second = stats(busy).cpu
    used = second.usage_core_nano_seconds.value - first.usage_core_nano_seconds.value
    assert used > 0.05e9
    mean = used / (second.timestamp - first.timestamp) * 1e9
    assert second.usage_nano_cores.value == pytest.approx(mean, rel=0.3)
    assert 0.05e9 < second.usage_nano_cores.value < 1.1e9  # others work here too
    until(lambda: stats(idle).cpu.HasField("usage_nano_cores"), "a second sample of the other")
    assert stats(idle).cpu.usage_nano_cores.value < 0.05e9


def test_memory_is_counted_with_its_limit_and_its_swap(pod: Pod) -> None:
    container = limited(
        pod,
        ["sh", "-c", "dd if=/dev/zero of=/dev/shm/held bs=1M count=20 2>&-; exec sleep 1000000"],
        memory=64 * MIB,
        swap=96 * MIB,
    )
    until(lambda: stats(container).memory.usage_bytes.value > 20 * MIB, "20 MiB are held")
    found = stats(container)
    memory = found.memory
    assert now_within(memory.timestamp)
    assert 20 * MIB <= memory.working_set_bytes.value <= memory.usage_bytes.value < 64 * MIB
    assert memory.available_bytes.value == 64 * MIB - memory.working_set_bytes.value
    assert 0 < memory.rss_bytes.value < 20 * MIB  # what is in /dev/shm is cache
    assert memory.page_faults.value > 0
    assert memory.HasField("major_page_faults")
    assert now_within(found.swap.timestamp)
    assert found.swap.swap_usage_bytes.value == 0
    assert found.swap.swap_available_bytes.value == 32 * MIB


def test_without_a_limit_nothing_is_said_to_be_available(pod: Pod) -> None:
    found = stats(pod.container().start())
    assert found.memory.working_set_bytes.value > 0
    assert not found.memory.HasField("available_bytes")
    assert not found.swap.HasField("swap_available_bytes")


def test_page_cache_that_nobody_uses_is_no_working_set(pod: Pod) -> None:
    container = pod.container(
        ["sh", "-c", "dd if=/dev/zero of=/cached bs=1M count=40 2>&-; exec sleep 1000000"]
    ).start()
    until(lambda: stats(container).memory.usage_bytes.value > 40 * MIB, "40 MiB are cached")
    memory = stats(container).memory
    assert memory.working_set_bytes.value < memory.usage_bytes.value - 20 * MIB


def test_what_a_container_writes_is_counted(kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container().start()
    before = stats(container).writable_layer
    assert before.fs_id.mountpoint == f"{kubelet.node.root}"
    assert now_within(before.timestamp, 20)
    container.shell("dd if=/dev/zero of=/data bs=1M count=8 2>&-; mkdir /d; touch /d/a /d/b; sync")
    container.shell("ln /data /d/other-name")

    def grown() -> bool:
        layer = stats(container).writable_layer
        return layer.used_bytes.value - before.used_bytes.value >= 8 * MIB

    until(grown, "8 MiB more are counted", COUNTED)
    after = stats(container).writable_layer
    assert after.used_bytes.value - before.used_bytes.value < 9 * MIB  # a hard link is no copy
    assert after.inodes_used.value == before.inodes_used.value + 4
    assert after.timestamp > before.timestamp
    info = kubelet.client.call("ImageFsInfo", api.ImageFsInfoRequest(), api.ImageFsInfoResponse)
    assert info.container_filesystems[0].used_bytes.value >= after.used_bytes.value


def test_a_container_that_does_not_run_has_its_attributes(kubelet: Kubelet, pod: Pod) -> None:
    created = pod.container(labels={"role": "created"}, annotations={"note": "ü"})
    exited = pod.container(["true"]).start()
    exited.wait()
    for container in (created, exited):
        found = stats(container)
        assert found.attributes.id == container.id
        assert found.attributes.metadata == container.config.metadata
        assert found.attributes.labels == container.config.labels
        assert found.attributes.annotations == container.config.annotations
        assert not found.HasField("cpu")
        assert not found.HasField("memory")
    assert {one.attributes.id for one in listed(kubelet, pod_sandbox_id=pod.id)} == {
        created.id,
        exited.id,
    }


def test_filters_choose_as_those_of_the_lists_do(kubelet: Kubelet, pod: Pod) -> None:
    first = pod.container(labels={"app": "a", "tier": "x"}).start()
    second = pod.container(labels={"app": "b", "tier": "x"}).start()
    other = kubelet.pod()
    third = other.container(labels={"app": "a", "tier": "x"}).start()

    def ids(**filters: object) -> set[str]:
        return {one.attributes.id for one in listed(kubelet, **filters)}

    assert ids() >= {first.id, second.id, third.id}
    assert ids(id=first.id) == ids(id=first.id[:13]) == {first.id}
    assert ids(pod_sandbox_id=pod.id[:13]) == {first.id, second.id}
    assert ids(label_selector={"app": "a", "tier": "x"}) == {first.id, third.id}
    assert ids(pod_sandbox_id=pod.id, label_selector={"app": "a"}) == {first.id}
    assert ids(id="f" * 64) == set()
    pods = {one.attributes.id for one in pods_listed(kubelet, id=pod.id[:13])}
    assert pods == {pod.id}
    labels = {"test": other.config.metadata.name}
    assert [one.attributes.id for one in pods_listed(kubelet, label_selector=labels)] == [other.id]


def test_an_unknown_id_is_not_found(kubelet: Kubelet) -> None:
    unknown = "f" * 64
    client = kubelet.client
    by_container = api.ContainerStatsRequest(container_id=unknown)
    error = refused(lambda: client.call("ContainerStats", by_container, api.ContainerStatsResponse))
    assert error.code is grpc.StatusCode.NOT_FOUND
    by_pod = api.PodSandboxStatsRequest(pod_sandbox_id=unknown)
    error = refused(lambda: client.call("PodSandboxStats", by_pod, api.PodSandboxStatsResponse))
    assert error.code is grpc.StatusCode.NOT_FOUND


def test_a_pod_counts_all_of_its_containers(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    busy = pod.container(["sh", "-c", "while true; do :; done"]).start()
    many = pod.container(["sh", "-c", "for i in 1 2 3; do sleep 1000000 & done; wait"]).start()
    until(lambda: pod_stats(pod).linux.process.process_count.value == 5, "five processes")
    found = pod_stats(pod)
    assert found.attributes.id == pod.id
    assert found.attributes.metadata == pod.config.metadata
    assert found.attributes.labels == pod.config.labels
    assert found.attributes.annotations == pod.config.annotations
    linux = found.linux
    assert {one.attributes.id for one in linux.containers} == {busy.id, many.id}
    parts = sum(one.cpu.usage_core_nano_seconds.value for one in linux.containers)
    assert linux.cpu.usage_core_nano_seconds.value >= 0.9 * parts > 0
    working = sum(one.memory.working_set_bytes.value for one in linux.containers)
    assert linux.memory.working_set_bytes.value >= 0.5 * working > 0
    until(lambda: pod_stats(pod).linux.cpu.HasField("usage_nano_cores"), "a rate of the pod")
    assert pod_stats(pod).linux.cpu.usage_nano_cores.value > 0.05e9


def test_a_pods_network_is_counted_from_the_pods_point_of_view(kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container().start()
    before = pod_stats(pod).linux.network
    assert before.default_interface.name == "eth0"
    gateway = container.shell("ip route").split()[2]
    container.shell(f"ping -c 20 -i 0.01 -s 1000 -W 2 {gateway} >&2")
    after = pod_stats(pod).linux.network
    sent = after.default_interface.tx_bytes.value - before.default_interface.tx_bytes.value
    received = after.default_interface.rx_bytes.value - before.default_interface.rx_bytes.value
    assert 20_000 < sent < 100_000
    assert 20_000 < received < 100_000
    assert after.default_interface.HasField("tx_errors")
    assert after.default_interface.HasField("rx_errors")
    assert now_within(after.timestamp)


def test_a_pod_of_the_nodes_network_has_no_network_of_its_own(kubelet: Kubelet) -> None:
    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    pod = kubelet.pod(config)
    pod.container().start()
    linux = pod_stats(pod).linux
    assert linux.process.process_count.value == 1
    assert not linux.HasField("network")


def test_a_stopped_pod_has_its_attributes(pod: Pod) -> None:
    pod.container().start()
    pod.stop()
    found = pod_stats(pod)
    assert found.attributes.id == pod.id
    assert not found.linux.HasField("cpu")
    assert not found.linux.HasField("network")


def test_containers_that_come_and_go_never_spoil_a_list(kubelet: Kubelet, pod: Pod) -> None:
    staying = pod.container().start()
    over = threading.Event()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not over.is_set():
                pod.container(["true"]).start().remove()
        except BaseException as error:  # noqa: BLE001  # told in the test's thread
            failures.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(40):
            found = {one.attributes.id: one for one in listed(kubelet)}
            assert found[staying.id].cpu.usage_core_nano_seconds.value > 0
            assert any(one.attributes.id == pod.id for one in pods_listed(kubelet))
            assert any(one.pod_sandbox_id == pod.id for one in metrics(kubelet))
    finally:
        over.set()
        thread.join()
    assert failures == []


def test_a_restarted_daemon_goes_on_counting(node: Node, pod: Pod) -> None:
    container = pod.container(["sh", "-c", "while true; do :; done"]).start()
    container.shell("dd if=/dev/zero of=/data bs=1M count=4 2>&-; sync")
    before = stats(container)
    network = pod_stats(pod).linux.network.default_interface
    node.restart_daemon()
    after = stats(container)
    assert after.cpu.usage_core_nano_seconds.value >= before.cpu.usage_core_nano_seconds.value > 0
    again = pod_stats(pod).linux.network.default_interface
    assert again.rx_bytes.value >= network.rx_bytes.value
    until(
        lambda: stats(container).writable_layer.used_bytes.value >= 4 * MIB,
        "what it had written is counted again",
        COUNTED,
    )


def test_every_metric_has_a_descriptor_and_its_labels(kubelet: Kubelet, pod: Pod) -> None:
    container = limited(pod, ["sleep", "1000"], memory=64 * MIB)
    known = descriptors(kubelet)
    (found,) = [one for one in metrics(kubelet) if one.pod_sandbox_id == pod.id]
    (inside,) = found.container_metrics
    assert inside.container_id == container.id
    every = [*found.metrics, *inside.metrics]
    assert all(len(one.label_values) == len(known[one.name]) for one in every)
    series = [(one.name, *one.label_values) for one in every]
    assert len(set(series)) == len(series)  # Prometheus takes none twice
    assert {one.name for one in found.metrics} >= {
        f"container_network_{way}_{what}_total"
        for way in ("receive", "transmit")
        for what in ("bytes", "packets", "packets_dropped", "errors")
    }
    values = {one.name: one.value.value for one in inside.metrics}
    assert values["container_spec_memory_limit_bytes"] == 64 * MIB
    assert values["container_processes"] == 1
    assert values["container_threads"] == 1
    assert values["container_memory_rss"] > 0
    assert values["container_oom_events_total"] == 0
    assert values["container_file_descriptors"] >= 3
    assert abs(values["container_start_time_seconds"] - time.time()) < 60
    assert abs(values["container_last_seen"] - time.time()) < 60
    one = inside.metrics[0]
    labels = dict(zip(known[one.name], one.label_values, strict=True))
    assert labels["container"] == container.config.metadata.name
    assert labels["pod"] == pod.config.metadata.name
    assert labels["namespace"] == pod.config.metadata.namespace
    assert labels["id"].endswith(f"/{container.id}")
    assert labels["image"]


def test_cpu_metrics_tell_programs_from_the_kernel(kubelet: Kubelet, pod: Pod) -> None:
    pod.container(["sh", "-c", "while true; do :; done"]).start()

    def seconds(name: str) -> int:
        (found,) = [one for one in metrics(kubelet) if one.pod_sandbox_id == pod.id]
        (inside,) = found.container_metrics
        return next(one.value.value for one in inside.metrics if one.name == name)

    # the kernel adds up the whole and the parts in different ways
    until(lambda: seconds("container_cpu_usage_seconds_total") >= 2, "two seconds of CPU time")
    assert seconds("container_cpu_user_seconds_total") >= 1
    assert seconds("container_cpu_system_seconds_total") <= 1


def test_a_person_sees_who_uses_what(kubelet: Kubelet, pod: Pod) -> None:
    busy = limited(pod, ["sh", "-c", "while true; do :; done"], memory=64 * MIB)
    pod.container(["true"]).start().wait()
    name = pod.config.metadata.name

    def said(*words: str) -> str:
        environment = {"PODWRIGHT_ADDRESS": kubelet.node.address}
        done = CliRunner().invoke(main, ["stats", *words], env=environment)
        assert done.exit_code == 0, done.output
        return done.output

    headers, of_pod, of_container = said(name).splitlines()
    assert headers.split()[:3] == ["POD", "CPU", "MEMORY"]
    assert of_pod.split()[0] == f"e2e/{name}"
    assert of_pod.split()[-1] == "1"
    assert of_container.split()[0] == busy.config.metadata.name
    assert 0.03 < float(of_container.split()[1]) < 1.2
    assert of_container.split()[4:6] == ["of", "67.1"]
    (told,) = json.loads(said(name, "-o", "json"))
    (inside,) = told["containers"]
    assert (told["id"], inside["id"]) == (pod.id, busy.id)
    assert told["processes"] == 1
    assert inside["cpu_nanoseconds"] > 0
    assert name in said()
