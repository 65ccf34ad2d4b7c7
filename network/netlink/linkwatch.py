"""Waits until the kernel has taken an interface's carrier into account.

A veth comes up without carrier: it drops what it should send, and its bridge port stays disabled,
until a kernel worker ("linkwatch") has run. The first ARP request of a pod that is quicker is lost
and repeated after a second. Asking for the link state by ethtool makes the kernel do that work at
once (dev_ethtool: linkwatch_sync_dev), in less than 0.1 ms.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_ETHTOOL_GLINK = 0x0000000A


class Linkwatch:
    """For one thread, in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def sync(self, name: str) -> bool:
        """Whether `name` has a carrier, once the kernel has acted on it. Raises OSError."""
        answer = array.array("I", [_ETHTOOL_GLINK, 0])  # struct ethtool_value
        address, _ = answer.buffer_info()
        request = struct.pack("16sP16x", name.encode(), address)  # struct ifreq
        fcntl.ioctl(self._socket, _SIOCETHTOOL, request)
        return bool(answer[1])

    def close(self) -> None:
        self._socket.close()
