"""The loopback interface of a pod. Its addresses come from the kernel; it goes with its namespace.

There is no delete: what belongs to the namespace alone needs none.
"""

from __future__ import annotations

from network.netlink.route import LOOPBACK_INDEX, set_up
from network.netlink.wire import Request


def add() -> Request:
    """Brings it up; to be sent in the pod's namespace."""
    return set_up(LOOPBACK_INDEX, "lo")
