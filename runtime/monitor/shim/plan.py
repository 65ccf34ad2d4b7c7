"""What a monitor and its children need to have a shim, and to have it make a container.

The daemon compiles the plan, and it travels as a file. Functions are pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from runtime.init.values import RootPlan
from runtime.monitor.oci.plan import Json
from runtime.monitor.shim.task_pb2 import Any, CreateTaskRequest
from runtime.spec import UserLookup

PLACE = "/run/containerd"  # in the shim's mount namespace: ours, and nothing of the node's
NAMESPACE = "k8s.io"  # what containerd calls the node's pods
TASKS = "io.containerd.runtime.v2.task"
EVENTS = "containerd.sock.ttrpc"  # in PLACE
_PUBLISHER = "/bin/true"  # by which shims told events before they spoke ttrpc: nobody listens
MARK = "PODWRIGHT_SANDBOX"  # in the shim's environment: whose it is


POD_CONFIG = "runtime.v1.PodSandboxConfig"  # the type of what CreateSandbox is told of a pod


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimPlan:
    """A pod's shim.

    binary: the shim; options_type, options: the runtime's options, a message and its type; hidden:
    mounts of the node that the shim is not to see; sandbox: config.json of the pod's sandbox as a
    task, in whose bundle the shim is started; sandbox_task: it is to be made, first; pod_config:
    the pod as CRI tells it, for a shim that is to make its sandbox, and then annotations: of that.
    """

    binary: str
    sandbox: str
    options_type: str = ""
    options: bytes = b""
    hidden: tuple[str, ...] = ()
    sandbox_task: bool = False
    pod_config: bytes = b""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def give_options(self, request: CreateTaskRequest) -> None:
        """Those of the runtime, if it has any."""
        if self.options_type:
            request.options.CopyFrom(Any(type_url=self.options_type, value=self.options))

    def sandbox_document(self) -> Json:
        """The sandbox's config.json, to be changed."""
        return cast(Json, json.loads(self.sandbox))

    def command(self, task_id: str, verb: str) -> list[str]:
        """The command line of one run of the shim, in a task's bundle. verb: start or delete."""
        where = ("-bundle", bundle(task_id)) if verb == "delete" else ()
        return [
            *(self.binary, "-namespace", NAMESPACE, "-address", f"{PLACE}/containerd.sock"),
            *("-publish-binary", _PUBLISHER, "-id", task_id, *where, verb),
        ]

    def environment(self, sandbox_id: str) -> dict[str, str]:
        """Of that run, which the shim inherits."""
        return {
            "NAMESPACE": NAMESPACE,
            "TTRPC_ADDRESS": f"{PLACE}/{EVENTS}",
            "GRPC_ADDRESS": f"{PLACE}/containerd.sock",
            "MAX_SHIM_VERSION": "2",  # what containerd says, to shims of version 3 too
            "GOMAXPROCS": "2",
            MARK: sandbox_id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan(ShimPlan):
    """A container for a shim.

    config: config.json as text, in which the user, namespaces and capabilities are not final;
    lookup: the user, if only the image's files can tell.
    """

    rootfs: RootPlan
    config: str
    lookup: UserLookup | None = None

    def document(self) -> Json:
        """config.json, to be changed."""
        return cast(Json, json.loads(self.config))


def bundle(task_id: str) -> str:
    """Where a task's bundle is, in the shim's mount namespace."""
    return f"{PLACE}/{TASKS}/{NAMESPACE}/{task_id}"
