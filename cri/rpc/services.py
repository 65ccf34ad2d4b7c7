"""What handlers may use: one value, made by the composition root, handed to every handler."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cri.events import Events
from cri.handlers import DEFAULT_HANDLER
from cri.locks import Flights, Locks
from cri.nri.listen import Nri
from cri.rpc import selinux
from cri.rpc.worker import Workers
from cri.specgen.handler import RuntimeHandler
from cri.trace import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cri.config import Config
    from cri.paths import Paths
    from cri.rpc.nri_calls import NriCalls
    from cri.store.store import Store
    from cri.streaming.server import StreamServer
    from image.store import ImageStore
    from network.pod_network import PodNetwork
    from runtime.lifecycle import Runtime
    from runtime.spec import Spec


EMBEDDED = {name: RuntimeHandler(name) for name in ("", DEFAULT_HANDLER)}


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running daemon."""

    config: Config
    paths: Paths
    store: Store
    images: ImageStore
    network: PodNetwork
    runtime: Runtime
    streams: StreamServer
    handlers: Mapping[str, RuntimeHandler] = field(default_factory=lambda: EMBEDDED)  # by name
    selinux: selinux.Selinux = selinux.OFF
    events: Events = field(init=False)  # follows the store
    nri: Nri = field(init=False)  # plugins that hear of all this
    locks: Locks = field(default_factory=Locks)  # by sandbox id and by container id
    flights: Flights[str] = field(default_factory=Flights)  # RunPodSandbox, CreateContainer: ids
    recorder: Recorder = field(default_factory=Recorder)
    specs: dict[str, Spec] = field(default_factory=dict)  # by container id: see container_spec
    workers: Workers = field(default_factory=Workers)  # for calls on paths that users gave
    busy: set[asyncio.Task[object]] = field(default_factory=set)  # requests that change something

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", Events(self.store))
        object.__setattr__(self, "nri", Nri(self.config.nri))

    @property
    def plugins(self) -> NriCalls | None:
        """What NRI plugins are asked and told by; None: there is nobody to be asked."""
        if not self.nri.active:
            return None
        from cri.rpc.nri_calls import NriCalls  # few nodes have plugins

        return NriCalls(self)
