"""A monitor and its daemon when one of them is slower than the other, without a pod."""

from __future__ import annotations

import asyncio
import socket
import subprocess

from runtime.linux import fds
from runtime.monitor import command
from runtime.monitor.client import MonitorClient
from runtime.monitor.messages import Abandon
from runtime.monitor.server import UNHEARD_BYTES, Connection


def test_a_daemon_that_does_not_read_reads_what_was_sent_and_sees_that_it_was_dropped() -> None:
    ours, theirs = fds.pair()
    connection = Connection(ours)
    sent = 0
    while connection.open:
        connection.send({"number": sent, "padding": "x" * 60_000})
        sent += 1
        assert sent < UNHEARD_BYTES // 1000
    heard = 0
    while (received := fds.receive(theirs)) is not None:
        assert received[0]["number"] == heard
        heard += 1
    assert heard == sent - 1
    assert fds.receive(ours) is None  # so that the monitor's loop clears away
    ours.close()
    theirs.close()


async def test_what_a_busy_monitor_is_told_arrives_later_and_in_order() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = MonitorClient(ours, lambda _exit: None, lambda: None)
    for number in range(2000):  # several times what the socket holds
        client.tell(Abandon(number))
    heard = [await asyncio.to_thread(fds.receive, theirs) for _ in range(2000)]
    assert [message["exec_id"] for message, _ in filter(None, heard)] == list(range(2000))
    client.close()
    theirs.close()


async def test_what_was_not_told_to_a_monitor_that_has_gone_is_forgotten() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lost = asyncio.Event()
    client = MonitorClient(ours, lambda _exit: None, lost.set)
    for number in range(2000):
        client.tell(Abandon(number))
    theirs.close()
    await asyncio.wait_for(lost.wait(), 10)
    client.tell(Abandon(0))


def test_both_ways_to_find_descendants_find_the_same() -> None:
    script = "sleep 100 & exec sh -c \"sh -c 'sleep 100 & echo up; wait' & wait\""
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        found = command.descendants(process.pid)
        by_parent = command._by_parent()  # kernels differ in which one is used
        assert len(found) == 3
        for pid in (process.pid, *found):
            assert sorted(command._children(pid)) == sorted(by_parent.get(pid, []))
        for pid in (*found, process.pid):
            command._signal(pid, 9)
    assert command.descendants(process.pid) == []
