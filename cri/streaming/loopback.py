"""Connects to a port of the node's own loopback: how pods in the node's network are reached."""

from __future__ import annotations

import asyncio
import socket

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def dial_loopback(port: int) -> socket.socket:
    """A connected, non-blocking socket, by IPv4 or else by IPv6. Raises OSError, that of IPv4."""
    refused: list[OSError] = []
    for family, address in ADDRESSES:
        try:
            return await _dial(family, address, port)
        except OSError as error:
            refused.append(error)
    raise refused[0]


async def _dial(family: int, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made
