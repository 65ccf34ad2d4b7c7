"""Parts of a daemon for tests: real ones, on a scratch directory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import grpc

from cri import service
from cri.config import Config, override
from cri.endpoint import Endpoint
from cri.listen import listen
from cri.paths import Paths
from cri.rpc.services import Services
from cri.store.store import Store
from cri.streaming.server import StreamServer, StreamSettings
from image.store import ImageSettings, ImageStore, RegistrySettings, UnpackLimits
from network.config import NetworkSettings
from network.pod_network import PodNetwork
from runtime.lifecycle import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from google.protobuf.message import Message

Answer = TypeVar("Answer", bound="Message")
# registries answer at once or not at all, and small file systems are no reason to refuse a pull
IMAGES = ImageSettings(
    registries=RegistrySettings(hosts_dir="", attempts=2, retry_delay=0.01, connect_timeout=5),
    limits=UnpackLimits(reserve_bytes=0),
)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def stream_server() -> StreamServer:
    """On loopback, at any port; not started."""
    return StreamServer(StreamSettings(Endpoint.parse("127.0.0.1:0")))


@contextlib.asynccontextmanager
async def parts(directory: Path) -> AsyncIterator[Services]:
    """A daemon's parts, with the network off and no spawner started."""
    paths = Paths(directory / "root", directory / "state")
    config = override(Config(), root=str(paths.root), state=str(paths.state))
    for made in (paths.root, paths.state):
        made.mkdir(parents=True)
    store = Store.open(paths.database)
    images = await ImageStore.open(paths.root, IMAGES)
    network = PodNetwork(NetworkSettings(enabled=False, state_dir=paths.state))
    netns_dir = directory / "netns"
    runtime = Runtime(paths.state, netns_dir, on_exit=lambda _: None, on_lost=lambda _: None)
    await network.start([])
    try:
        yield Services(config, paths, store, images, network, runtime, stream_server())
    finally:
        await network.close()
        await images.close()
        store.close()


@contextlib.asynccontextmanager
async def serving(
    services: Services, tables: service.Tables = service.TABLES
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


async def call(
    channel: grpc.aio.Channel, method: str, request: Message, answer: type[Answer]
) -> Answer:
    """One call; method: runtime.v1.ImageService/ListImages."""
    rpc: grpc.aio.UnaryUnaryMultiCallable[Message, Answer] = channel.unary_unary(
        f"/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return await rpc(request, timeout=20)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another task or process does and nobody announces."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
