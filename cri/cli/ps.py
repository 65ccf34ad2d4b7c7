"""podwright ps: the pods, and how their containers are."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

import click

from cri.api import api_pb2 as api
from cri.cli import find, show
from cri.cli.client import CallFailed, Client, connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATES = {
    api.CONTAINER_CREATED: "created",
    api.CONTAINER_RUNNING: "running",
    api.CONTAINER_EXITED: "exited",
    api.CONTAINER_UNKNOWN: "unknown",
}


@click.command(name="ps")
@click.option("--all", "-a", "everything", is_flag=True, help="Also pods that are not ready.")
@click.option("--quiet", "-q", is_flag=True, help="Only ids.")
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table")
def command(everything: bool, quiet: bool, output: str) -> None:  # noqa: FBT001  # click's way
    """List pods and their containers."""
    with connect() as client:
        pods = find.sandboxes(client)
        shown = [pod for pod in pods if everything or pod.state == api.SANDBOX_READY]
        if quiet:
            for pod in shown:
                click.echo(pod.id)
        elif output == "json":
            click.echo(json.dumps(_as_json(client, shown), indent=2))
        else:
            _table(client, shown)
            if len(shown) < len(pods):
                show.note(f"{len(pods) - len(shown)} more that are not ready: podwright ps -a")


def _table(client: Client, pods: Sequence[api.PodSandbox]) -> None:
    inside = _by_pod(client)
    rows, remarks = [], []
    for pod in pods:
        told = [(c.metadata.name, *state_of(client, c)) for c in inside[pod.id]]
        remarks += [f"{find.pod_name(pod)}/{name}: {why}" for name, _, why in told if why]
        rows.append(
            [
                find.pod_name(pod),
                show.short(pod.id),
                "ready" if pod.state == api.SANDBOX_READY else "not ready",
                _ip(client, pod) or "-",
                show.age(pod.created_at),
                ", ".join(f"{name} {state}" for name, state, _ in told),
            ]
        )
    show.columns(["POD", "ID", "STATE", "IP", "AGE", "CONTAINERS"], rows)
    for remark in remarks:
        show.note(show.printable(remark))


def state_of(client: Client, container: api.Container) -> tuple[str, str]:
    """running; exited with its code and, where it says more, its reason. Then: why, if known."""
    if container.state != api.CONTAINER_EXITED:
        return STATES[container.state], ""
    try:
        request = api.ContainerStatusRequest(container_id=container.id)
        status = client.call("ContainerStatus", request, api.ContainerStatusResponse).status
    except CallFailed:
        return "removed", ""
    plain = status.reason in ("", "Completed", "Error")
    return f"exited ({status.exit_code}{'' if plain else ' ' + status.reason})", status.message


def _by_pod(client: Client) -> Mapping[str, list[api.Container]]:
    """All containers, by their pod's id."""
    inside: defaultdict[str, list[api.Container]] = defaultdict(list)
    for container in find.containers(client):
        inside[container.pod_sandbox_id].append(container)
    return inside


def _ip(client: Client, pod: api.PodSandbox) -> str:
    try:
        request = api.PodSandboxStatusRequest(pod_sandbox_id=pod.id)
        status = client.call("PodSandboxStatus", request, api.PodSandboxStatusResponse).status
    except CallFailed:
        return ""
    return status.network.ip


def _as_json(client: Client, pods: Sequence[api.PodSandbox]) -> list[dict[str, object]]:
    inside = _by_pod(client)

    def told(container: api.Container) -> dict[str, str]:
        state, why = state_of(client, container)
        return {
            "id": container.id,
            "name": container.metadata.name,
            "state": state,
            "message": why,
        }

    return [
        {
            "id": pod.id,
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "ready": pod.state == api.SANDBOX_READY,
            "ip": _ip(client, pod),
            "created_at": pod.created_at,
            "containers": [told(container) for container in inside[pod.id]],
        }
        for pod in pods
    ]
