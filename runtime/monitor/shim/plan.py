"""What a monitor and its children need to have a shim make a container.

The daemon compiles the plan, and it travels as a file. Functions are pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from runtime.init.values import RootPlan
from runtime.monitor.oci.plan import Json
from runtime.spec import UserLookup

PLACE = "/run/containerd"  # in the shim's mount namespace: ours, and nothing of the node's
NAMESPACE = "k8s.io"  # what containerd calls the node's pods
TASKS = "io.containerd.runtime.v2.task"
EVENTS = "containerd.sock.ttrpc"  # in PLACE
_PUBLISHER = "/bin/true"  # by which shims told events before they spoke ttrpc: nobody listens
MARK = "PODWRIGHT_SANDBOX"  # in the shim's environment: whose it is


@dataclass(frozen=True, slots=True)
class ShimPlan:
    """A container for a shim.

    binary: the shim; config: config.json as text, in which the user, namespaces and capabilities
    are not final; lookup: the user, if only the image's files can tell; options_type, options: the
    runtime's options, a message and its type; hidden: mounts of the node that the shim is not to
    see; sandbox: config.json of the pod's sandbox task; sandbox_task: it is to be made, first.
    """

    binary: str
    rootfs: RootPlan
    config: str
    sandbox: str
    options_type: str = ""
    options: bytes = b""
    lookup: UserLookup | None = None
    hidden: tuple[str, ...] = ()
    sandbox_task: bool = False

    def document(self) -> Json:
        """config.json, to be changed."""
        return cast(Json, json.loads(self.config))

    def sandbox_document(self) -> Json:
        """The same of the sandbox task."""
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


def bundle(task_id: str) -> str:
    """Where a task's bundle is, in the shim's mount namespace."""
    return f"{PLACE}/{TASKS}/{NAMESPACE}/{task_id}"
