"""What pods have received and sent, from the node's end of each pair: no namespace is entered.

One dump of all interfaces' counters. They are by index, which the kernel is asked for once a pod.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from network.journal import Attachment, Phase
from network.netlink import route
from network.netlink.channel import Channel
from network.result import Traffic


class Counters:
    """For one thread, in the network namespace in which the node's ends are."""

    def __init__(self, channel: Channel) -> None:
        """channel: of NETLINK_ROUTE; stays its owner's."""
        self._channel = channel
        self._indexes: dict[str, int] = {}  # by sandbox id

    def read(self, records: Iterable[Attachment]) -> dict[str, dict[str, Traffic]]:
        """By sandbox id and by interface, as the pod sees it. Raises OSError.

        A pod whose interface has gone is left out.
        """
        attached = [record for record in records if record.phase == Phase.ADDED]
        known = self._indexes
        self._indexes = {}
        if not attached:
            return {}
        dump = self._channel.dump(route.get_counters())
        counters = dict(map(route.parse_counters, dump))
        found = {}
        for record in attached:
            index = known.get(record.sandbox_id) or _index_of(record.host_interface)
            traffic = counters.get(index)
            if traffic is not None:
                self._indexes[record.sandbox_id] = index
                found[record.sandbox_id] = {record.interface: traffic.other_end()}
        return found


def _index_of(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
