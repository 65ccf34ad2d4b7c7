"""Parts of a daemon for tests: real ones, on a scratch directory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc

from cri import service
from cri.config import Config, override
from cri.listen import listen
from cri.paths import Paths
from cri.rpc.services import Services
from cri.store.store import Store
from image.settings import ImageSettings
from image.store import ImageStore
from network.config import NetworkSettings
from network.pod_network import PodNetwork
from runtime.lifecycle import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextlib.asynccontextmanager
async def parts(directory: Path) -> AsyncIterator[Services]:
    """A daemon's parts, with the network off and no spawner started."""
    paths = Paths(directory / "root", directory / "state")
    config = override(Config(), root=str(paths.root), state=str(paths.state))
    for made in (paths.root, paths.state):
        made.mkdir(parents=True)
    store = Store.open(paths.database)
    images = await ImageStore.open(paths.root, ImageSettings())
    network = PodNetwork(NetworkSettings(enabled=False, state_dir=paths.state))
    netns_dir = directory / "netns"
    runtime = Runtime(paths.state, netns_dir, on_exit=lambda _: None, on_lost=lambda _: None)
    await network.start([])
    try:
        yield Services(config, paths, store, images, network, runtime)
    finally:
        await network.close()
        await images.close()
        store.close()


@contextlib.asynccontextmanager
async def serving(
    services: Services, tables: Mapping[str, Mapping[str, service.Rpc]] = service.TABLES
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of these parts."""
    server = service.server(services, tables)
    async with await listen(server, services.config.endpoint, services.paths.state):
        await server.start()
        try:
            async with grpc.aio.insecure_channel(
                services.config.endpoint, options=OPTIONS
            ) as channel:
                yield channel
        finally:
            await server.stop(0)
