"""Which pod or container a word on the command line means.

A pod: its id or a unique beginning of it, its name, or namespace/name.
A container: the same for ids, its name where only one container has it, or pod/container.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from cri.api import api_pb2 as api
from cri.cli.show import short

if TYPE_CHECKING:
    from cri.cli.client import Client

Thing = TypeVar("Thing", api.PodSandbox, api.Container)
ID_PREFIX = 4
"""Fewer digits than that are rather a name."""


def sandboxes(client: Client) -> list[api.PodSandbox]:
    """All pods, newest first."""
    answer = client.call("ListPodSandbox", api.ListPodSandboxRequest(), api.ListPodSandboxResponse)
    return sorted(answer.items, key=lambda item: -item.created_at)


def containers(client: Client, sandbox_id: str = "") -> list[api.Container]:
    """All containers, or those of one pod, oldest first."""
    wanted = api.ContainerFilter(pod_sandbox_id=sandbox_id)
    request = api.ListContainersRequest(filter=wanted)
    answer = client.call("ListContainers", request, api.ListContainersResponse)
    return sorted(answer.containers, key=lambda item: item.created_at)


def pod_name(sandbox: api.PodSandbox | api.PodSandboxStatus | api.PodSandboxAttributes) -> str:
    """namespace/name"""
    return f"{sandbox.metadata.namespace}/{sandbox.metadata.name}"


def sandbox(client: Client, word: str) -> api.PodSandbox:
    """The pod that `word` means. A click error if there is none, or more than one."""
    return _only(_pods(sandboxes(client), word), word, "pod")


def container(client: Client, word: str) -> api.Container:
    """The container that `word` means: of several with that name the one which runs.

    A pod's name means its container, if it has only one.
    """
    pods, every = sandboxes(client), containers(client)
    found = _containers(every, pods, word)
    if not found:
        ids = {pod.id for pod in _pods(pods, word)}
        found = [item for item in every if item.pod_sandbox_id in ids]
    return _only(found, word, "container")


def anything(client: Client, word: str) -> api.PodSandbox | api.Container:
    """The pod or, if no pod is called so, the container that `word` means."""
    pods = sandboxes(client)
    matching = _pods(pods, word)
    if matching:
        return _only(matching, word, "pod")
    return _only(_containers(containers(client), pods, word), word, "pod or container")


def _pods(pods: Sequence[api.PodSandbox], word: str) -> list[api.PodSandbox]:
    by_name = [pod for pod in pods if word in (pod.metadata.name, pod_name(pod))]
    return by_name or [pod for pod in pods if _is_id(word, pod.id)]


def _containers(
    every: Sequence[api.Container], pods: Sequence[api.PodSandbox], word: str
) -> list[api.Container]:
    pod, _, name = word.rpartition("/")
    wanted = {item.id for item in _pods(pods, pod)} if pod else {item.id for item in pods}
    found = [c for c in every if c.metadata.name == name and c.pod_sandbox_id in wanted]
    running = [item for item in found if item.state == api.CONTAINER_RUNNING]
    return running or found or [item for item in every if _is_id(word, item.id)]


def _is_id(word: str, identifier: str) -> bool:
    return len(word) >= ID_PREFIX and identifier.startswith(word)


def _only(found: Sequence[Thing], word: str, kind: str) -> Thing:
    if len(found) == 1:
        return found[0]
    if not found:
        raise click.ClickException(f"there is no {kind} {word}: `podwright ps -a` lists them")
    which = ", ".join(f"{short(item.id)} ({item.metadata.name})" for item in found)
    raise click.ClickException(f"{word} means {len(found)} of them; name one by its id: {which}")
