"""Containers: what was asked (Metadata, never changes) and what is (Status, replaced whole)."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound, WrongState
from cri.store import index
from cri.store.records import Record, Records
from runtime import codec

if TYPE_CHECKING:
    from cri.store.database import Database


class ContainerState(enum.StrEnum):
    """UNKNOWN: its monitor is gone and left no exit; it may have run, it does no longer."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


TRANSITIONS: Mapping[ContainerState, frozenset[ContainerState]] = {
    ContainerState.CREATED: frozenset(
        {ContainerState.RUNNING, ContainerState.EXITED, ContainerState.UNKNOWN}
    ),
    ContainerState.RUNNING: frozenset({ContainerState.EXITED, ContainerState.UNKNOWN}),
    ContainerState.UNKNOWN: frozenset({ContainerState.RUNNING, ContainerState.EXITED}),
    ContainerState.EXITED: frozenset(),
}
_API_STATE = {
    ContainerState.CREATED: api.CONTAINER_CREATED,
    ContainerState.RUNNING: api.CONTAINER_RUNNING,
    ContainerState.EXITED: api.CONTAINER_EXITED,
    ContainerState.UNKNOWN: api.CONTAINER_UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class ContainerMetadata:
    """What was asked for, and what was decided before the first side effect."""

    id: str
    sandbox_id: str
    image_id: str  # config digest: what PullImage answered
    image_ref: str  # as the client wrote it; never empty
    created_at: int = field(default_factory=time.time_ns)  # ns since the epoch
    log_path: str = ""  # absolute; "": no log
    stop_signal: str = ""  # from the request or the image; "": SIGTERM
    adjustment: bytes | None = None
    """What NRI plugins want of it that its config has no words for; None: they want nothing."""
    checkpoint: bool = False  # it goes on from one: see paths.checkpoint


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What is. Times in ns since the epoch, 0 while they have not come."""

    state: ContainerState = ContainerState.CREATED
    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""  # Completed, Error, OOMKilled, StartError, Unknown
    message: str = ""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    stop_signalled: bool = False  # the stop signal is sent once, however often a stop is asked for

    def to(self, state: ContainerState) -> ContainerStatus:
        """The status after a change of state. Raises WrongState if there is no such transition."""
        if state not in TRANSITIONS[self.state]:
            raise WrongState(f"a container that is {self.state} can't become {state}")
        return dataclasses.replace(self, state=state)


@dataclass(frozen=True, slots=True)
class Container(Record[ContainerMetadata, api.ContainerConfig, ContainerStatus]):
    """One container."""

    status: ContainerStatus = field(default_factory=ContainerStatus)

    @property
    def name(self) -> str:
        return container_name(self.metadata.sandbox_id, self.config.metadata)

    @property
    def api_state(self) -> api.ContainerState:
        """The state as CRI knows it."""
        return _API_STATE[self.status.state]

    def with_resources(self, resources: api.LinuxContainerResources) -> Container:
        """The same container, with other resources in its config."""
        config = api.ContainerConfig()
        config.CopyFrom(self.config)
        config.linux.resources.CopyFrom(resources)
        return Container(self.metadata, config, self.status)

    def _list_response(self) -> api.ListContainersResponse:
        return api.ListContainersResponse(
            containers=[
                api.Container(
                    id=self.id,
                    pod_sandbox_id=self.metadata.sandbox_id,
                    metadata=self.config.metadata,
                    image=self.config.image,
                    image_ref=self.metadata.image_id,
                    image_id=self.metadata.image_id,
                    state=self.api_state,
                    created_at=self.metadata.created_at,
                    labels=self.config.labels,
                    annotations=self.config.annotations,
                )
            ]
        )

    def _stats(self) -> api.ContainerStats:
        return api.ContainerStats(
            attributes=api.ContainerAttributes(
                id=self.id,
                metadata=self.config.metadata,
                labels=self.config.labels,
                annotations=self.config.annotations,
            )
        )


class Containers(Records[Container, ContainerStatus]):
    """All containers. `name`: see `container_name`."""

    def __init__(self, database: Database) -> None:
        self._of_sandbox: dict[str, dict[str, Container]] = {}  # by sandbox id, by id, oldest first
        super().__init__(
            database,
            "containers",
            load=_load,
            not_found=ContainerNotFound,
        )

    def of_sandbox(self, sandbox_id: str) -> tuple[Container, ...]:
        """The containers of a sandbox (whole id), oldest first."""
        return tuple(self._of_sandbox.get(sandbox_id, {}).values())

    def _keep(self, record: Container) -> None:
        super()._keep(record)
        self._of_sandbox.setdefault(record.metadata.sandbox_id, {})[record.id] = record

    def _drop(self, record: Container) -> None:
        super()._drop(record)
        siblings = self._of_sandbox[record.metadata.sandbox_id]
        del siblings[record.id]
        if not siblings:
            del self._of_sandbox[record.metadata.sandbox_id]

    def select(self, wanted: api.ContainerFilter) -> list[Container]:
        """Those that match every given part of a filter.

        An id may be cut short; one that nobody has, or that is ambiguous, matches nothing.
        """
        found: list[Container] | tuple[Container, ...] = self.all()
        if wanted.id:
            one = index.resolve_quietly(wanted.id, self._by_id)
            found = [] if one is None else [self._by_id[one]]
        if wanted.pod_sandbox_id:
            owner = index.resolve_quietly(
                wanted.pod_sandbox_id, {container.metadata.sandbox_id for container in found}
            )
            found = [container for container in found if container.metadata.sandbox_id == owner]
        state = wanted.state.state if wanted.HasField("state") else None
        return [
            container
            for container in found
            if (state is None or container.api_state == state)
            and index.labels_match(container.config.labels, wanted.label_selector)
        ]


def container_name(sandbox_id: str, metadata: api.ContainerMetadata) -> str:
    """What must be unique: a second request for the same name is the same request."""
    return f"{sandbox_id}/{metadata.name}/{metadata.attempt}"


def _load(metadata: object, config: bytes, status: object) -> Container:
    return Container(
        codec.decode(ContainerMetadata, metadata),
        api.ContainerConfig.FromString(config),
        codec.decode(ContainerStatus, status),
    )
