"""Records as tests want them: new, with an id of their own."""

from __future__ import annotations

from cri.api import api_pb2 as api
from cri.store.container import Container, ContainerMetadata
from cri.store.index import new_id
from cri.store.sandbox import Sandbox, SandboxMetadata


def sandbox(name: str = "web", *, sandbox_id: str = "", attempt: int = 0, **labels: str) -> Sandbox:
    metadata = api.PodSandboxMetadata(name=name, namespace="default", uid="u", attempt=attempt)
    config = api.PodSandboxConfig(metadata=metadata, labels=labels, annotations={"a": "b"})
    return Sandbox(SandboxMetadata(sandbox_id or new_id(), netns_path="/run/netns/x"), config)


def container(
    sandbox_id: str, name: str = "main", *, container_id: str = "", **labels: str
) -> Container:
    config = api.ContainerConfig(
        metadata=api.ContainerMetadata(name=name),
        image=api.ImageSpec(image="busybox"),
        labels=labels,
        envs=[api.KeyValue(key="K", value=b"\xff")],
    )
    image_id = "sha256:" + "a" * 64
    made = ContainerMetadata(container_id or new_id(), sandbox_id, image_id, "busybox")
    return Container(made, config)
