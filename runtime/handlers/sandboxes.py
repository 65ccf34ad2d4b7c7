"""The sandboxes of pods that are made by their shims: with the pod, before any container."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.handlers.face import Handler, MakesSandboxes, SandboxWork
from runtime.monitor.client import MonitorClient
from runtime.monitor.messages import Done, SandboxRequest, StartSandbox
from runtime.prepare import plan_file
from runtime.spec import Namespace

PATIENCE = 120.0  # seconds for a shim to start, and for its machine to boot


@dataclass(frozen=True, slots=True)
class ShimSandbox:
    """A sandbox to be made. made: what the pod has already; handler: one that makes sandboxes;
    config: the pod as CRI tells it, serialised; annotations: of its OCI spec."""

    made: SandboxRequest
    handler: str
    config: bytes
    annotations: Mapping[str, str]


class Sandboxes:
    """directory: of monitors; client: the monitor of a sandbox, or SandboxNotFound."""

    def __init__(
        self,
        directory: Path,
        handlers: Mapping[str, Handler],
        client: Callable[[str], MonitorClient],
    ) -> None:
        self._directory = directory
        self._handlers = handlers
        self._client = client

    async def make(self, request: ShimSandbox) -> None:
        """Returns when containers can be made in it. Raises InitFailed in the shim's words.

        What a failure leaves goes with the pod.
        """
        handler = self._handlers[request.handler]
        assert isinstance(handler, MakesSandboxes)
        made = request.made
        work = SandboxWork(
            directory=self._directory / made.sandbox_id,
            cgroup_parent=made.cgroup_parent,
            namespaces=_namespaces(made),
            config=request.config,
            annotations=request.annotations,
        )
        plan = await asyncio.to_thread(lambda: plan_file(handler.prepare_sandbox(work)))
        try:
            await self._client(made.sandbox_id).ask(
                StartSandbox(handler.name), Done, (plan,), patience=PATIENCE
            )
        finally:
            os.close(plan)


def _namespaces(made: SandboxRequest) -> tuple[Namespace, ...]:
    """Those that the pod has, as config.json lists them."""
    kinds = ["mount"]
    if made.network == "pod":
        kinds += ["network", "uts"]
    if made.ipc == "pod":
        kinds.append("ipc")
    if made.pid != "node":
        kinds.append("pid")
    return tuple(map(Namespace, kinds))
