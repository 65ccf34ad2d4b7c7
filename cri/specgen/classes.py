"""Classes of service: shares of cache, memory bandwidth (RDT) and block I/O, asked for by name.

CRI has no field for them; Kubernetes' runtimes agreed on annotations. What a class means is said on
the node. Nothing here can say it yet, so who names a class is told, and does not run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.errors import NotImplementedYet

if TYPE_CHECKING:
    from cri.api import api_pb2 as api

KINDS = ("rdt", "blockio")


def refuse(config: api.ContainerConfig, pod: api.PodSandboxConfig) -> None:
    """Raises NotImplementedYet for a container, or a pod, that names a class."""
    for kind in KINDS:
        prefix = f"{kind}.resources.beta.kubernetes.io"
        for where, given, key in (
            ("config", config.annotations, f"io.kubernetes.cri.{kind}-class"),
            ("sandbox_config", pod.annotations, f"{prefix}/container.{config.metadata.name}"),
            ("sandbox_config", pod.annotations, f"{prefix}/pod"),
        ):
            if given.get(key):
                raise NotImplementedYet(
                    f"{where}.annotations[{key}]: there is no {kind} class {given[key]!r} on "
                    "this node: podwright has no such classes; leave the annotation out"
                )
