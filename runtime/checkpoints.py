"""Checkpoints as the daemon has them made: containers that stand still, and CRIU at work on one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from runtime.checkpoint import criu
from runtime.errors import CriuUnavailable
from runtime.monitor.client import MonitorClient
from runtime.monitor.messages import Done, Dump, Pause
from runtime.spec import Spec

_FREEZE_SECONDS = 10.0
_ANSWER_SECONDS = 10.0  # beyond what a dump may take


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """A container to be written to `directory`, which is there and has a directory `checkpoint`.

    seconds: that it may take; shm: an empty directory that gets what is in the pod's /dev/shm,
    "" for none.
    """

    container_id: str
    directory: str
    seconds: float
    shm: str = ""


class Checkpoints:
    """name: of the program, or its path; client: the monitor of a sandbox, or SandboxNotFound."""

    def __init__(self, name: str, client: Callable[[str], MonitorClient]) -> None:
        self._name = name
        self._client = client
        self._checked: dict[tuple[str, int], str] = {}  # path and mtime -> problem

    async def program(self) -> str:
        """The path of a CRIU that works here. Raises CriuUnavailable with the reason.

        It is asked once, when it is first needed, and again when it has been replaced.
        """
        path = await asyncio.to_thread(criu.find, self._name)
        if not path:
            raise CriuUnavailable(
                f"criu is not installed: there is no program {self._name!r}; install it, or name "
                "its path in the configuration ([runtime] criu)"
            )
        key = path, os.stat(path).st_mtime_ns
        if key not in self._checked:
            self._checked[key] = await asyncio.to_thread(criu.problem, path)
        if self._checked[key]:
            text = "CRIU does not work with this node's kernel: "
            raise CriuUnavailable(f"{text}{self._checked[key]} ({path})")
        return path

    async def restorer(self, spec: Spec) -> str:
        """The same, which can make a container of this spec what it is to be."""
        path = await self.program()
        if spec.process.no_new_privileges:
            await _require(
                path,
                criu.KNOWS_NO_NEW_PRIVILEGES,
                "would restore processes without no_new_privs, which this container is to have "
                "(allowPrivilegeEscalation: false)",
            )
        if spec.linux.uid_mappings:
            await _require(path, criu.KNOWS_UNPRIVILEGED, "can't restore in a user namespace")
        return path

    @contextlib.asynccontextmanager
    async def paused(
        self, sandbox_id: str, container_ids: Sequence[str]
    ) -> AsyncGenerator[None, None]:
        """Inside, these containers of a sandbox stand still. Whatever happens, they run on after
        it; also if this daemon dies in between. Raises CheckpointFailed, ContainerNotFound."""
        client = self._client(sandbox_id)
        async with client.lasting(Pause(tuple(container_ids), _FREEZE_SECONDS), Done):
            yield

    async def dump(self, sandbox_id: str, wanted: DumpRequest) -> None:
        """Writes a container's processes to disk. Raises CheckpointFailed, CriuUnavailable."""
        program = await self.program()
        request = Dump(wanted.container_id, program, wanted.directory, wanted.seconds, wanted.shm)
        patience = wanted.seconds + _ANSWER_SECONDS
        await self._client(sandbox_id).ask(request, Done, patience=patience)


async def _require(path: str, least: tuple[int, ...], fault: str) -> None:
    """Raises CriuUnavailable if this CRIU is older."""
    version = await asyncio.to_thread(criu.version, path)
    if version < least:
        said, needed = (".".join(map(str, one)) for one in (version, least))
        raise CriuUnavailable(f"CRIU {said} ({path}) {fault}: {needed} or newer is needed")
