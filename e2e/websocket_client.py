"""A client of streams over WebSocket: the one of Kubernetes' package for Python, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kubernetes.client import Configuration
from kubernetes.stream.ws_client import WSClient


@contextlib.contextmanager
def websocket_client(url: str, protocol: str = "") -> Iterator[Any]:
    """A WSClient, connected; it has no types. protocol: v5, v4 unless told otherwise."""
    headers = {"sec-websocket-protocol": protocol} if protocol else {}
    target = url.replace("http", "ws", 1)
    configuration = Configuration()
    configuration.verify_ssl = False  # kubelet, the only one with TLS here, signed its own
    client: Any = WSClient(configuration, target, headers, True, binary=True)  # type: ignore[no-untyped-call]
    try:
        yield client
    finally:
        client.close()
        client.sock.shutdown()  # after the server's goodbye it forgets its socket


def until_said(client: Any, text: bytes) -> None:
    """Reads until this, and nothing else, has come on stdout. Its first messages are empty."""
    said = b""
    while said != text:
        said += client.read_stdout(timeout=10)
        assert text.startswith(said), said
        assert client.is_open()
