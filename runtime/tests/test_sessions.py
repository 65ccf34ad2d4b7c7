"""Streams to commands and containers: real monitors, pipes and terminals."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.cgroup import tree
from runtime.errors import AttachmentTooSlow, ContainerNotFound, InitFailed
from runtime.lifecycle import AttachRequest, ContainerRequest, Session, StreamedExec
from runtime.linux.namespace import Clone, setns
from runtime.tests.node import Node, lifetime, until

pytestmark = pytest.mark.root


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A started runtime with a sandbox s1; afterwards nothing of it may be left."""
    async with lifetime(Node(tmp_path), "s1") as node:
        yield node


async def read(fd: int, *, until: bytes = b"", patience: float = 10.0) -> bytes:
    """What comes out of a descriptor, until a text in it or until its end."""
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(patience):
        while True:
            readable = asyncio.Event()
            loop.add_reader(fd, readable.set)
            await readable.wait()
            loop.remove_reader(fd)
            try:
                piece = os.read(fd, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # a terminal's end
                    raise
                piece = b""
            data += piece
            if not piece or (until and until in data):
                return data


async def running(node: Node, name: str, *args: str, **changes: object) -> None:
    request = node.request("s1", name, *args)
    await node.runtime.start_container(dataclasses.replace(request, **changes))  # type: ignore[arg-type]


async def gone(node: Node, *words: bytes) -> None:
    """Waits until no process of c1 is called so: what was killed takes a moment to die."""
    async with asyncio.timeout(10):
        while True:
            listed = await node.exec("s1", "c1", "ps")
            if not any(word in listed for word in words):
                return


def with_terminal(request: ContainerRequest) -> ContainerRequest:
    process = dataclasses.replace(request.spec.process, terminal=True)
    return dataclasses.replace(request, spec=dataclasses.replace(request.spec, process=process))


def command(
    *args: str, terminal: bool = False, streams: tuple[int, ...] = (0, 1, 2)
) -> StreamedExec:
    return StreamedExec("s1", "c1", args, terminal, streams)


async def test_a_command_gets_its_input_and_its_end_and_tells_its_exit_code(node: Node) -> None:
    await running(node, "c1", "sleep", "100")
    session = await node.runtime.open_exec(command("sh", "-c", "cat; echo bad >&2; exit 3"))
    os.write(session.stdin_fd, b"to and fro\n")
    assert await read(session.stdout_fd, until=b"\n") == b"to and fro\n"
    session.end_input()
    assert await read(session.stderr_fd) == b"bad\n"
    assert await session.wait() == 3
    assert await session.wait() == 3
    await session.close()
    await session.close()


async def test_streams_that_nobody_wants_are_the_containers_null_device(node: Node) -> None:
    await running(node, "c1", "sleep", "100")
    script = "for x in 0 2; do busybox readlink /proc/self/fd/$x; done"
    session = await node.runtime.open_exec(command("sh", "-c", script, streams=(1,)))
    assert (session.stdin_fd, session.stderr_fd) == (-1, -1)
    assert await read(session.stdout_fd) == b"/dev/null\n/dev/null\n"
    await session.close()


async def test_a_command_on_a_terminal_knows_its_size_and_ends_with_it(node: Node) -> None:
    await running(node, "c1", "sleep", "100")
    script = "echo $TERM; busybox stty -echo; read line; busybox stty size; exit 7"
    session = await node.runtime.open_exec(command("sh", "-c", script, terminal=True))
    assert session.stdin_fd == session.stdout_fd
    assert session.stderr_fd == -1
    assert await read(session.stdout_fd, until=b"\n") == b"xterm\r\n"
    session.resize(width=123, height=45)
    os.write(session.stdin_fd, b"go\n")
    assert (await read(session.stdout_fd)).endswith(b"45 123\r\n")
    assert await session.wait() == 7
    await session.close()


async def test_a_command_that_is_not_there_is_told_when_it_is_opened(node: Node) -> None:
    await running(node, "c1", "sleep", "100")
    for terminal in (False, True):
        with pytest.raises(InitFailed, match="no-such-command"):
            await node.runtime.open_exec(command("no-such-command", terminal=terminal))
    with pytest.raises(ContainerNotFound):
        await node.runtime.open_exec(StreamedExec("s1", "stranger", ("true",)))


async def test_who_hangs_up_takes_the_command_and_its_children_along(node: Node) -> None:
    await running(node, "c1", "sleep", "100")
    for terminal in (False, True):
        script = "sleep 1000 & sleep 1001 & echo up; wait"
        session = await node.runtime.open_exec(command("sh", "-c", script, terminal=terminal))
        assert (await read(session.stdout_fd, until=b"up")).startswith(b"up")
        await session.close()
        await gone(node, b"sleep 1000", b"sleep 1001")
        assert b"sleep 100\n" in await node.exec("s1", "c1", "ps")


async def test_a_command_ends_with_the_daemon_that_asked_for_it(node: Node) -> None:
    await running(node, "c1", "sleep", "100")
    session = await node.runtime.open_exec(command("sh", "-c", "echo up; sleep 1000"))
    await read(session.stdout_fd, until=b"up")
    await node.runtime.close()
    node.runtime = node.new_runtime()
    await node.runtime.start()
    assert await node.runtime.reconnect("s1") is not None
    async with asyncio.timeout(10):
        while b"1000" in await node.exec("s1", "c1", "ps"):
            pass
    await session.close()


async def test_all_who_are_attached_see_the_same_and_the_log_too(node: Node) -> None:
    await running(node, "c1", "sh", "-c", "read x; echo $x; echo err >&2; exit 4", stdin=True)
    first = await node.runtime.attach(AttachRequest("s1", "c1"))
    second = await node.runtime.attach(AttachRequest("s1", "c1", streams=(1,)))
    assert second.stdin_fd == -1
    os.write(first.stdin_fd, b"hello\n")
    assert await read(first.stdout_fd) == b"hello\n"
    assert await read(first.stderr_fd) == b"err\n"
    assert await read(second.stdout_fd) == b"hello\n"
    assert (await first.wait(), await second.wait()) == (0, 0)
    assert (await node.ended("c1")).exit_code == 4
    assert node.lines("c1") == ["hello", "err"]
    for session in (first, second):
        await session.close()


async def test_input_for_one_client_ends_with_it_and_that_for_many_does_not(node: Node) -> None:
    await running(node, "c1", "sh", "-c", "cat; echo done", stdin=True, stdin_once=True)
    session = await node.runtime.attach(AttachRequest("s1", "c1"))
    os.write(session.stdin_fd, b"last words\n")
    session.end_input()
    assert await read(session.stdout_fd) == b"last words\ndone\n"
    assert (await node.ended("c1")).exit_code == 0
    await session.close()

    await running(node, "c2", "sh", "-c", "cat; echo done", stdin=True)
    for word in (b"one\n", b"two\n"):
        session = await node.runtime.attach(AttachRequest("s1", "c2"))
        os.write(session.stdin_fd, word)
        assert await read(session.stdout_fd, until=b"\n") == word
        session.end_input()
        await session.close()
    assert node.lines("c2") == ["one", "two"]


async def test_the_input_of_a_client_that_is_killed_ends_too(node: Node) -> None:
    await running(node, "c1", "sh", "-c", "cat; echo done", stdin=True, stdin_once=True)
    session = await node.runtime.attach(AttachRequest("s1", "c1"))
    os.write(session.stdin_fd, b"word\n")
    await session.close()
    assert (await node.ended("c1")).exit_code == 0
    assert node.lines("c1") == ["word", "done"]


async def test_a_terminal_can_be_attached_to_typed_at_and_resized(node: Node) -> None:
    script = "busybox stty -echo; read x; busybox stty size; echo $x; read y; exit 5"
    request = dataclasses.replace(node.request("s1", "c1", "sh", "-c", script), stdin=True)
    await node.runtime.start_container(with_terminal(request))
    session = await node.runtime.attach(AttachRequest("s1", "c1", streams=(0, 1)))
    watcher = await node.runtime.attach(AttachRequest("s1", "c1", streams=(1,)))
    assert session.terminal
    session.resize(width=80, height=24)
    os.write(session.stdin_fd, b"typed\n")
    for one in (session, watcher):
        assert b"24 80" in await read(one.stdout_fd, until=b"80\r\ntyped\r\n")
    os.write(session.stdin_fd, b"bye\n")
    assert await session.wait() == 0
    assert (await node.ended("c1")).exit_code == 5
    for one in (session, watcher):
        await one.close()


async def test_a_reader_who_does_not_read_holds_up_neither_container_nor_log(node: Node) -> None:
    script = "read x; yes 0123456789 | head -c 4000000; echo end; sleep 100"
    await running(node, "c1", "sh", "-c", script, stdin=True)
    slow = await node.runtime.attach(AttachRequest("s1", "c1", streams=(1,)))
    starter = await node.runtime.attach(AttachRequest("s1", "c1", streams=(0,)))
    os.write(starter.stdin_fd, b"go\n")
    with pytest.raises(AttachmentTooSlow):
        await asyncio.wait_for(slow.wait(), 10)
    got = await read(slow.stdout_fd)
    assert got == (b"0123456789\n" * 400000)[: len(got)]  # no gap
    log = node.log("c1")
    await until(lambda: log.exists() and log.read_bytes().endswith(b"end\n"))
    for session in (slow, starter):
        await session.close()
    assert await node.exec("s1", "c1", "echo", "alive") == b"alive\n"


def listen_in(netns: Path, family: int, address: str) -> socket.socket:
    """A listener on a free port, made in another network namespace; in a thread of its own."""
    with open(netns) as namespace:
        setns(namespace.fileno(), Clone.NEWNET)
    listener = socket.socket(family)
    listener.bind((address, 0))
    listener.listen()
    listener.setblocking(False)
    return listener


async def test_a_port_of_the_pod_can_be_dialed_by_either_family(node: Node) -> None:
    netns = node.netns_dir / "cni-s1"
    up = ("nsenter", f"--net={netns}", "ip", "link", "set", "lo", "up")
    assert await (await asyncio.create_subprocess_exec(*up)).wait() == 0
    loop = asyncio.get_running_loop()
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with concurrent.futures.ThreadPoolExecutor(1) as elsewhere:
            listener = await loop.run_in_executor(elsewhere, listen_in, netns, family, address)
        peer = await node.runtime.dial("s1", listener.getsockname()[1])
        served, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(peer, b"ping")
        assert await loop.sock_recv(served, 100) == b"ping"
        for one in (peer, served, listener):
            one.close()
    with pytest.raises(ConnectionRefusedError):
        await node.runtime.dial("s1", 9)


async def test_nothing_of_a_session_is_left_open(node: Node) -> None:
    await running(node, "c1", "cat", stdin=True)
    monitor = (await node.runtime.reconnect("s1")).pid  # type: ignore[union-attr]

    async def play() -> None:
        sessions: list[Session] = [
            await node.runtime.open_exec(command("cat")),
            await node.runtime.open_exec(command("cat", terminal=True)),
            await node.runtime.attach(AttachRequest("s1", "c1")),
        ]
        for session in sessions:
            await session.close()

    await play()
    before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), monitor)]
    for _ in range(10):
        await play()
    assert [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), monitor)] == before


async def test_hundreds_who_are_attached_all_see_the_end_and_the_exit_is_not_lost(
    node: Node,
) -> None:
    await running(node, "c1", "sleep", "1000")
    one = AttachRequest("s1", "c1", streams=(1,))
    attached = [await node.runtime.attach(one) for _ in range(400)]
    await node.runtime.signal("s1", "c1", 9)
    ends = [asyncio.create_task(session.wait()) for session in attached]
    assert (await node.ended("c1")).exit_code == 137
    assert await asyncio.gather(*ends) == [0] * 400
    for session in attached:
        await session.close()


async def test_hundreds_of_commands_abandoned_at_once_are_all_killed(node: Node) -> None:
    await running(node, "c1", "sleep", "1000")
    script = command("sh", "-c", "sleep 4242 & sleep 4243", streams=(1,))
    started = [node.runtime.open_exec(script) for _ in range(300)]
    opened = await asyncio.gather(*started)
    await asyncio.gather(*(session.close() for session in opened))
    await gone(node, b"sleep 4242", b"sleep 4243")


async def test_a_terminal_that_is_closed_and_opened_again_goes_on(node: Node) -> None:
    script = (
        "tty=$(busybox tty); echo first; read x; exec </dev/null >/dev/null 2>&1;"
        "for x in 1 2 3; do echo line $x >$tty; busybox usleep 20000; done; exec sleep 1000"
    )
    request = dataclasses.replace(node.request("s1", "c1", "sh", "-c", script), stdin=True)
    await node.runtime.start_container(with_terminal(request))
    session = await node.runtime.attach(AttachRequest("s1", "c1"))
    os.write(session.stdin_fd, b"\n")
    assert b"line 1\r\nline 2\r\nline 3" in await read(session.stdout_fd, until=b"line 3")
    monitor = (await node.runtime.reconnect("s1")).pid  # type: ignore[union-attr]

    def burnt() -> int:
        return sum(map(int, Path(f"/proc/{monitor}/stat").read_text().split()[13:15]))

    before = burnt()
    await asyncio.sleep(0.3)
    assert burnt() - before < 10, "a terminal that nobody has open must not keep us busy"
    await node.runtime.signal("s1", "c1", 9)
    assert (await node.ended("c1")).exit_code == 137
    assert await session.wait() == 0
    await session.close()


async def test_a_command_given_up_while_it_begins_keeps_its_pipes_until_it_is_killed(
    node: Node,
) -> None:
    """Else it could end by itself before, and what it has started would live on."""
    await running(node, "c1", "sleep", "1000")
    monitor = (await node.runtime.reconnect("s1")).pid  # type: ignore[union-attr]
    before = len(os.listdir("/proc/self/fd"))
    os.kill(monitor, signal.SIGSTOP)
    try:
        word = command("sh", "-c", "sleep 4545 & cat")
        opening = asyncio.create_task(node.runtime.open_exec(word))
        await until(lambda: len(os.listdir("/proc/self/fd")) == before + 6)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert len(os.listdir("/proc/self/fd")) == before + 3, "our ends are open"
    finally:
        os.kill(monitor, signal.SIGCONT)
    await until(lambda: len(os.listdir("/proc/self/fd")) == before)
    await gone(node, b"sleep 4545")


def freeze(group: str) -> None:
    if tree.detect().version == 2:
        Path(f"/sys/fs/cgroup{group}/cgroup.freeze").write_text("1")
    else:
        Path(f"/sys/fs/cgroup/freezer{group}/freezer.state").write_text("FROZEN")


async def test_a_container_that_somebody_has_frozen_can_be_killed(node: Node) -> None:
    await running(node, "c1", "sleep", "1000")
    freeze(f"{node.cgroup}/s1/c1")
    await node.runtime.signal("s1", "c1", signal.SIGKILL)
    assert (await node.ended("c1")).exit_code == 137
