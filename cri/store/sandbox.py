"""Sandboxes: what was asked (Metadata, never changes) and what is (Status, replaced whole)."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import SandboxNotFound, WrongState
from cri.store import index
from cri.store.records import Record, Records
from runtime import codec

if TYPE_CHECKING:
    from cri.store.database import Database


class SandboxState(enum.StrEnum):
    """INITIALIZING is written ahead of the first side effect and is not listed."""

    INITIALIZING = "initializing"
    READY = "ready"
    NOTREADY = "notready"


TRANSITIONS: Mapping[SandboxState, frozenset[SandboxState]] = {
    SandboxState.INITIALIZING: frozenset({SandboxState.READY, SandboxState.NOTREADY}),
    SandboxState.READY: frozenset({SandboxState.NOTREADY}),
    SandboxState.NOTREADY: frozenset(),
}
_API_STATE = {
    SandboxState.INITIALIZING: api.SANDBOX_NOTREADY,
    SandboxState.READY: api.SANDBOX_READY,
    SandboxState.NOTREADY: api.SANDBOX_NOTREADY,
}


@dataclass(frozen=True, slots=True)
class SandboxMetadata:
    """What was asked for, and what was decided before the first side effect."""

    id: str
    runtime_handler: str = ""
    created_at: int = field(default_factory=time.time_ns)  # ns since the epoch
    netns_path: str = ""  # "" with the node's network
    cgroup_parent: str = ""  # as asked, or the default
    mount_label: str = ""  # SELinux's, of its files, with the pod's level; "": it has no labels


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What is. `ips`: IPv4 first, and they survive restarts of the daemon."""

    state: SandboxState = SandboxState.INITIALIZING
    ips: tuple[str, ...] = ()
    pid: int = 0  # the monitor's
    reason: str = ""  # why it is not ready: for people
    stopped: bool = False  # StopPodSandbox has released everything

    def made(self, *, pid: int, ips: tuple[str, ...]) -> SandboxStatus:
        """The status of a sandbox that is ready for containers."""
        return dataclasses.replace(self.to(SandboxState.READY), pid=pid, ips=ips)

    def to(self, state: SandboxState, *, reason: str = "") -> SandboxStatus:
        """The status after a change of state. Raises WrongState if there is no such transition."""
        if state not in TRANSITIONS[self.state]:
            raise WrongState(f"a sandbox that is {self.state} can't become {state}")
        return dataclasses.replace(self, state=state, reason=reason)


@dataclass(frozen=True, slots=True)
class Sandbox(Record[SandboxMetadata, api.PodSandboxConfig, SandboxStatus]):
    """One sandbox."""

    status: SandboxStatus = field(default_factory=SandboxStatus)

    @property
    def name(self) -> str:
        return sandbox_name(self.config.metadata)

    @property
    def api_state(self) -> api.PodSandboxState:
        """The state as CRI knows it."""
        return _API_STATE[self.status.state]

    def with_resources(
        self,
        *,
        overhead: api.LinuxContainerResources | None,
        resources: api.LinuxContainerResources | None,
    ) -> Sandbox:
        """The same sandbox, with what is given of these in its config."""
        config = api.PodSandboxConfig()
        config.CopyFrom(self.config)
        if overhead is not None:
            config.linux.overhead.CopyFrom(overhead)
        if resources is not None:
            config.linux.resources.CopyFrom(resources)
        return Sandbox(self.metadata, config, self.status)

    def _list_response(self) -> api.ListPodSandboxResponse:
        return api.ListPodSandboxResponse(
            items=[
                api.PodSandbox(
                    id=self.id,
                    metadata=self.config.metadata,
                    state=self.api_state,
                    created_at=self.metadata.created_at,
                    labels=self.config.labels,
                    annotations=self.config.annotations,
                    runtime_handler=self.metadata.runtime_handler,
                )
            ]
        )

    def _stats(self) -> api.PodSandboxStats:
        return api.PodSandboxStats(
            attributes=api.PodSandboxAttributes(
                id=self.id,
                metadata=self.config.metadata,
                labels=self.config.labels,
                annotations=self.config.annotations,
            )
        )


class Sandboxes(Records[Sandbox, SandboxStatus]):
    """All sandboxes. `name`: see `sandbox_name`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "sandboxes", load=_load, not_found=SandboxNotFound)

    def select(self, wanted: api.PodSandboxFilter) -> list[Sandbox]:
        """Those that match every given part of a filter, without those still being made.

        An id may be cut short; one that nobody has, or that is ambiguous, matches nothing.
        """
        found: list[Sandbox] | tuple[Sandbox, ...] = self.all()
        if wanted.id:
            one = index.resolve_quietly(wanted.id, self._by_id)
            found = [] if one is None else [self._by_id[one]]
        state = wanted.state.state if wanted.HasField("state") else None
        return [
            sandbox
            for sandbox in found
            if sandbox.status.state is not SandboxState.INITIALIZING
            and (state is None or sandbox.api_state == state)
            and index.labels_match(sandbox.config.labels, wanted.label_selector)
        ]


def sandbox_name(metadata: api.PodSandboxMetadata) -> str:
    """What must be unique: a second request for the same name is the same request."""
    return f"{metadata.namespace}/{metadata.name}/{metadata.uid}/{metadata.attempt}"


def _load(metadata: object, config: bytes, status: object) -> Sandbox:
    return Sandbox(
        codec.decode(SandboxMetadata, metadata),
        api.PodSandboxConfig.FromString(config),
        codec.decode(SandboxStatus, status),
    )
