"""Lists that come as streams tell what the lists tell: each item once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from e2e.kubelet import Kubelet, Pod


def told(kubelet: Kubelet, service: str, name: str, request: Message) -> bytes:
    """All messages of a stream, joined; protobuf takes them as one."""
    with grpc.insecure_channel(kubelet.node.client.address) as channel:
        stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            f"/runtime.v1.{service}/{name}"
        )
        return b"".join(stream(request.SerializeToString(), timeout=20))


def test_every_pod_container_and_image_is_streamed(kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container(["sleep", "100"]).start()
    service = "RuntimeService"
    data = told(kubelet, service, "StreamPodSandboxes", api.StreamPodSandboxesRequest())
    pods = [one.id for one in api.StreamPodSandboxesResponse.FromString(data).pod_sandboxes]
    assert pods.count(pod.id) == 1
    data = told(kubelet, service, "StreamContainers", api.StreamContainersRequest())
    containers = [one.id for one in api.StreamContainersResponse.FromString(data).containers]
    assert containers.count(container.id) == 1
    data = told(kubelet, "ImageService", "StreamImages", api.StreamImagesRequest())
    images = [one.id for one in api.StreamImagesResponse.FromString(data).images]
    assert images.count(kubelet.image) == 1


def test_statistics_and_metrics_are_streamed(kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container(["sleep", "100"]).start()
    service = "RuntimeService"
    data = told(kubelet, service, "StreamContainerStats", api.StreamContainerStatsRequest())
    stats = api.StreamContainerStatsResponse.FromString(data).container_stats
    assert [one.attributes.id for one in stats].count(container.id) == 1
    data = told(kubelet, service, "StreamPodSandboxStats", api.StreamPodSandboxStatsRequest())
    pods = api.StreamPodSandboxStatsResponse.FromString(data).pod_sandbox_stats
    assert [one.attributes.id for one in pods].count(pod.id) == 1
    data = told(kubelet, service, "StreamPodSandboxMetrics", api.StreamPodSandboxMetricsRequest())
    metrics = api.StreamPodSandboxMetricsResponse.FromString(data).pod_sandbox_metrics
    (found,) = [one for one in metrics if one.pod_sandbox_id == pod.id]
    assert [one.container_id for one in found.container_metrics] == [container.id]
