"""Tells a cluster what a node on podwright can run: RuntimeClasses, labels; waits for Ready.

    /opt/podwright/bin/python deploy/nodes.py --node NODE [--kubeconfig FILE] [--wait SECONDS]

To be run on the node, which is asked for its handlers. It may be run again: what is right is left
alone. The exit code is 1 if the node is not Ready in the end; what it says of itself is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from kubernetes import client, config

from cri.api import api_pb2 as api
from cri.cli.client import DEFAULT_ADDRESS, Client

LABEL = "podwright.io/handler-"
OVERHEAD = {
    "podwright": {"memory": "4Mi", "cpu": "1m"},
    "runsc": {"memory": "64Mi", "cpu": "10m"},
    "shim": {"memory": "32Mi", "cpu": "1m"},
    "kata": {"memory": "160Mi", "cpu": "250m"},
}
"""What a pod costs beside its containers, by handler; see deploy/runtimeclasses.yaml."""
OTHERS = {"memory": "6Mi", "cpu": "1m"}
PAUSE = 1.0
Body = dict[str, object]


def handlers(address: str) -> list[str]:
    """The names that a RuntimeClass may have for its handler on this node."""
    with Client(address) as daemon:
        answer = daemon.call("Status", api.StatusRequest(), api.StatusResponse)
    return sorted(handler.name for handler in answer.runtime_handlers if handler.name)


def runtime_class(handler: str) -> Body:
    """As it ought to be."""
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": handler},
        "handler": handler,
        "overhead": {"podFixed": OVERHEAD.get(handler, OTHERS)},
        "scheduling": {"nodeSelector": {f"{LABEL}{handler}": "true"}},
    }


@dataclass(frozen=True, slots=True)
class Cluster:
    """The few things that are asked of an API server."""

    connection: client.ApiClient

    def ensure_class(self, handler: str) -> str:
        """What was done. Raises ValueError for a class of that name with another handler."""
        wanted = runtime_class(handler)
        classes = client.NodeV1Api(self.connection)
        try:
            found = classes.read_runtime_class(handler)
        except client.ApiException as error:
            if error.status != 404:
                raise
            classes.create_runtime_class(wanted)
            return f"RuntimeClass {handler} created"
        if found.handler != handler:  # it can't be changed
            raise ValueError(
                f"RuntimeClass {handler} has the handler {found.handler}: delete it, or rename it"
            )
        told = cast("Body", self.connection.sanitize_for_serialization(found))
        if all(told.get(key) == wanted[key] for key in ("overhead", "scheduling")):
            return f"RuntimeClass {handler} is as it should be"
        parts = {key: wanted[key] for key in ("overhead", "scheduling")}
        classes.patch_runtime_class(handler, parts)
        return f"RuntimeClass {handler} changed"

    def label(self, node: str, names: Sequence[str]) -> str:
        """Labels for these handlers, and none for those that the node has no longer."""
        nodes = client.CoreV1Api(self.connection)
        labels = nodes.read_node(node).metadata.labels or {}
        wanted: dict[str, str | None] = {f"{LABEL}{name}": "true" for name in names}
        stale = [key for key in labels if key.startswith(LABEL) and key not in wanted]
        changes = {key: value for key, value in wanted.items() if labels.get(key) != value}
        changes |= dict.fromkeys(stale)
        if not changes:
            return f"node {node} has its labels"
        nodes.patch_node(node, {"metadata": {"labels": changes}})
        return f"node {node}: {len(changes)} labels changed"

    def wrong(self, node: str) -> str:
        """Why a node isn't Ready, in its own words; "" for one that is."""
        conditions = client.CoreV1Api(self.connection).read_node(node).status.conditions or []
        for one in conditions:
            if one.type == "Ready":
                return "" if one.status == "True" else f"{one.reason}: {one.message}"
        return "kubelet has not reported yet"

    def await_ready(self, node: str, seconds: float) -> str:
        """What is still wrong after that time; "" once the node is Ready."""
        deadline = time.monotonic() + seconds
        while (problem := self.wrong(node)) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return problem


def main(arguments: Sequence[str] | None = None) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--node", default=os.uname().nodename, help="the node's name")
    parser.add_argument("--kubeconfig", help="default: as kubectl finds it")
    parser.add_argument("--address", default=DEFAULT_ADDRESS, help="podwright's socket")
    parser.add_argument("--wait", type=float, default=120, help="seconds for the node to be Ready")
    options = parser.parse_args(arguments)
    cluster = Cluster(config.new_client_from_config(config_file=options.kubeconfig))
    names = handlers(options.address)
    try:
        for name in names:
            print(cluster.ensure_class(name))  # noqa: T201  # it is a command
        print(cluster.label(options.node, names))  # noqa: T201
        problem = cluster.await_ready(options.node, options.wait)
    except (client.ApiException, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"node {options.node}: {problem or 'Ready'}")  # noqa: T201
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
