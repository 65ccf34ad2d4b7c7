"""Classes of service: shares of cache, memory bandwidth (RDT) and block I/O, asked for by name.

CRI has no field for them; Kubernetes' runtimes agreed on annotations. What a class means is said on
the node: of block I/O in a file (cri.blockio). Of RDT nothing here can say it yet, so who names
such a class is told, and does not run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.errors import NotImplementedYet

if TYPE_CHECKING:
    from cri.api import api_pb2 as api

BLOCKIO, RDT = "blockio", "rdt"


def asked(
    kind: str, config: api.ContainerConfig, pod: api.PodSandboxConfig
) -> tuple[str, str] | None:
    """The class that a container is of, and where that is said; None: none."""
    prefix = f"{kind}.resources.beta.kubernetes.io"
    for where, given, key in (
        ("config", config.annotations, f"io.kubernetes.cri.{kind}-class"),
        ("sandbox_config", pod.annotations, f"{prefix}/container.{config.metadata.name}"),
        ("sandbox_config", pod.annotations, f"{prefix}/pod"),
    ):
        if given.get(key):
            return given[key], f"{where}.annotations[{key}]"
    return None


def refuse_rdt(config: api.ContainerConfig, pod: api.PodSandboxConfig) -> None:
    """Raises NotImplementedYet for a container, or a pod, that names a class of RDT."""
    found = asked(RDT, config, pod)
    if found is not None:
        name, field = found
        raise NotImplementedYet(
            f"{field}: there is no rdt class {name!r} on this node: podwright has no such classes; "
            "leave the annotation out"
        )
