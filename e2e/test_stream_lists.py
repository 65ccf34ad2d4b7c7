"""The lists that come in pieces tell what the others tell, whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.cli.client import SERVICE_OF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from e2e.kubelet import Kubelet
    from e2e.node import Node

Answer = TypeVar("Answer", bound="Message")


@pytest.fixture
def channel(node: Node) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(node.client.address) as opened:
        yield opened


def ask(
    channel: grpc.Channel, rpc: str, request: Message, answer: type[Answer]
) -> Iterator[Answer]:
    stream: grpc.UnaryStreamMultiCallable[Message, Answer] = channel.unary_stream(
        f"/{SERVICE_OF[rpc]}/{rpc}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    yield from stream(request, timeout=20)


def test_pods_containers_and_images_are_those_of_the_lists(
    kubelet: Kubelet, channel: grpc.Channel
) -> None:
    pods = [kubelet.pod() for _ in range(3)]
    containers = [pod.container() for pod in pods]
    told = ask(
        channel,
        "StreamPodSandboxes",
        api.StreamPodSandboxesRequest(),
        api.StreamPodSandboxesResponse,
    )
    assert [one for batch in told for one in batch.pod_sandboxes] == kubelet.sandboxes()
    found = ask(
        channel, "StreamContainers", api.StreamContainersRequest(), api.StreamContainersResponse
    )
    streamed = [one for batch in found for one in batch.containers]
    assert streamed == kubelet.containers()
    assert [one.id for one in streamed] == [one.id for one in containers]
    one_pod = api.ContainerFilter(pod_sandbox_id=pods[1].id[:13])
    filtered = ask(
        channel,
        "StreamContainers",
        api.StreamContainersRequest(filter=one_pod),
        api.StreamContainersResponse,
    )
    assert [one.id for batch in filtered for one in batch.containers] == [containers[1].id]
    images = ask(channel, "StreamImages", api.StreamImagesRequest(), api.StreamImagesResponse)
    listed = kubelet.client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    assert [one for batch in images for one in batch.images] == list(listed.images)


def test_of_nothing_there_is_an_end_and_no_message(channel: grpc.Channel) -> None:
    nobody = api.ContainerFilter(id="f" * 64)
    request = api.StreamContainersRequest(filter=nobody)
    assert list(ask(channel, "StreamContainers", request, api.StreamContainersResponse)) == []
