"""The daemon's side of the spawner: find it, start it, replace it, have monitors forked."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import posixpath
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runtime.codec import decode, encode
from runtime.errors import SpawnerUnavailable
from runtime.init.sandbox import unpin
from runtime.linux import fds, mount
from runtime.linux.fds import Message
from runtime.linux.mount import AT_FDCWD, MountAttr, Propagation
from runtime.monitor.failures import exception_of
from runtime.monitor.messages import Failure, MonitorRequest
from runtime.spawner.messages import HELLO, PROBE, QUIT, SPAWN, Spawned
from runtime.spawner.output import Output
from runtime.spawner.version import code_version

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 10.0  # seconds for an answer: a fork takes one millisecond
START_PATIENCE = 30.0  # for the first ones: a new spawner rehearses before it forks
_LISTENER_FD = 3
_HUNG_UP = (ConnectionError, TimeoutError)
# Without site: nothing of the environment is loaded but what runtime/ and the library hold, and in
# monitors that talk to shims protobuf, whose place comes last.
_PROTOBUF = importlib.util.find_spec("google")
_LAST = (
    list(map(posixpath.dirname, _PROTOBUF.submodule_search_locations or ())) if _PROTOBUF else []
)
_PROGRAM = f"""\
import sys
sys.path.insert(0, {os.fspath(Path(__file__).resolve().parents[2])!r})
sys.path += {_LAST!r}
from runtime.spawner.server import main
main()
"""


@dataclass(frozen=True, slots=True)
class Spawn:
    """A new monitor: the connection to it, and netns and netlink socket (none: node network)."""

    spawned: Spawned
    connection: socket.socket
    handles: list[int]


class SpawnerClient:
    """One connection to the spawner of this state directory; reconnects and restarts as needed.

    One call at a time. What waits for a process to start runs in a worker thread; a spawn is talked
    over in the event loop, since two hops between threads take as long as it does.
    """

    def __init__(self, state: Path) -> None:
        """state: the directory that holds spawner.sock and spawner.log."""
        self._path = state / "spawner.sock"
        self._output = Output(state)
        self._bounding: asyncio.Task[None] | None = None
        self._connection: socket.socket | None = None
        self._pid = 0  # of the spawner, if it is our child
        self._lock = asyncio.Lock()
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # before anyone raises it

    async def start(self) -> int:
        """Makes sure that a spawner of this code's version runs; answers its pid."""
        if self._bounding is None:
            self._bounding = asyncio.create_task(self._output.keep_bounded())
        async with self._lock:
            return await _in_thread(self._ensure)

    async def spawn(self, request: MonitorRequest) -> Spawn:
        """Has a monitor forked in namespaces of its own. What comes back is the caller's to close.

        A dead spawner is replaced and asked again, once. A monitor whose spawn is given up finds
        its connection closed, and ends; when we return the spawner has done with it.
        """
        async with self._lock:
            try:
                return await self._spawn(request)
            except asyncio.CancelledError:
                self._drop()  # or the next one would get this one's answer
                raise

    async def user_namespace_refusal(self, layers: tuple[str, str]) -> str:
        """Why pods can't have user namespaces on this node; "" if they can. layers: see PROBE."""
        async with self._lock:
            return await _in_thread(lambda: self._probe(layers))

    def close(self) -> None:
        if self._bounding is not None:
            self._bounding.cancel()
        self._drop()

    def _probe(self, layers: tuple[str, str]) -> str:
        try:
            answer, _ = self._ask({"do": PROBE, "layers": layers}, ())
        except _HUNG_UP as error:
            self._drop()
            return f"the spawner could not try it: {error}"
        return str(answer["refusal"])

    async def _spawn(self, request: MonitorRequest) -> Spawn:
        if self._connection is None:
            await _in_thread(self._ensure)
        try:
            result = await self._spawn_once(request)
        except _HUNG_UP as error:
            self._drop()
            log.warning("the spawner does not answer (%s): another one is started", error)
            if request.netns_path:
                unpin(request.netns_path)  # it may have died with the work half done
            await _in_thread(self._ensure)
            result = await self._spawn_again(request)
        if isinstance(result, Failure):
            raise exception_of(result)
        return result

    async def _spawn_again(self, request: MonitorRequest) -> Spawn | Failure:
        try:
            return await self._spawn_once(request)
        except _HUNG_UP as error:
            self._drop()
            raise SpawnerUnavailable(f"the spawner does not answer: {error}") from error

    async def _spawn_once(self, request: MonitorRequest) -> Spawn | Failure:
        message: Message = {"do": SPAWN, "request": encode(request)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, _make_directory(request.directory) as listener:
                self._say(message, (listener.fileno(), theirs.fileno()))
                await self._until_answered()
                answer, handles = self._hear()
            if "failed" in answer:
                ours.close()
                return decode(Failure, answer["failed"])
            return Spawn(decode(Spawned, answer["ok"]), ours, handles)
        except BaseException:
            ours.close()
            raise

    def _ensure(self) -> int:
        version = code_version()
        hello = self._connect()
        if hello is not None and hello.get("version") == version:
            return int(str(hello["pid"]))
        if hello is not None:
            with contextlib.suppress(OSError):
                self._ask({"do": QUIT}, ())
        self._drop()
        self._launch(version)
        hello = self._connect()
        if hello is None:
            raise SpawnerUnavailable(
                f"the spawner ended at once, saying: {self._output.last_words()}"
            )
        return int(str(hello["pid"]))

    def _connect(self) -> Message | None:
        """Connects and says hello; None if nobody is there."""
        self._drop()
        try:
            self._connection = fds.connect(os.fspath(self._path))
            self._connection.settimeout(START_PATIENCE)
            hello, _ = self._ask({"do": HELLO}, ())
        except OSError:
            self._drop()
            return None
        return hello

    def _ask(self, message: Message, descriptors: tuple[int, ...]) -> tuple[Message, list[int]]:
        self._say(message, descriptors)
        return self._hear()

    def _say(self, message: Message, descriptors: tuple[int, ...]) -> None:
        if self._connection is None:
            raise ConnectionError("not connected")
        fds.send(self._connection, message, descriptors)

    def _hear(self) -> tuple[Message, list[int]]:
        if self._connection is None:
            raise ConnectionError("not connected")
        received = fds.receive(self._connection)
        if received is None:
            raise ConnectionError("it hung up")
        return received

    async def _until_answered(self) -> None:
        """If cancelled, not before: what the spawner makes can't be undone while it makes it."""
        connection, loop = self._connection, asyncio.get_running_loop()
        assert connection is not None
        answered = asyncio.Event()
        given_up: asyncio.CancelledError | None = None
        deadline = loop.time() + (connection.gettimeout() or 0)
        loop.add_reader(connection, answered.set)
        try:
            while not answered.is_set():
                try:
                    async with asyncio.timeout_at(deadline):
                        await answered.wait()
                except asyncio.CancelledError as error:
                    given_up = error
            connection.settimeout(PATIENCE)
        except TimeoutError:
            if given_up is None:
                raise
        finally:
            loop.remove_reader(connection)
        if given_up is not None:
            raise given_up

    def _launch(self, version: str) -> None:
        """Starts a fresh interpreter that inherits the listening socket: no race for the name.

        Containers inherit its limit of open files: that with which we were started.
        """
        self._reap()
        log_fd = self._output.open()
        state = os.fspath(self._path.parent)
        with (
            fds.bind(os.fspath(self._path)) as listener,
            os.fdopen(log_fd, "wb"),
            _read_only(sys.executable) as program,
        ):
            errors = 2 if os.environ.get("JOURNAL_STREAM") else log_fd
            self._pid = os.posix_spawn(
                program,
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_LISTENER_FD), version, state],
                {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, errors, 2),
                    (os.POSIX_SPAWN_DUP2, listener.fileno(), _LISTENER_FD),
                ],
                setsid=True,
            )
            resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._open_files)

    def _reap(self) -> None:
        """A spawner that we started and that has died would stay a zombie."""
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, os.WNOHANG)
            self._pid = 0

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def _in_thread(work: Callable[[], T]) -> T:
    """Ends when the work does, also if it is cancelled: nothing stops a thread, and the next call
    would find it at the same connection."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        working.exception()  # nobody is left to hear it
        raise


@contextlib.contextmanager
def _read_only(program: str) -> Iterator[str]:
    """A path to the same program, on a read-only mount that nobody else has.

    An image's command may be a link to /proc/self/exe: what runs in the container then, with the
    image's libraries, is the interpreter of its init, whose file it could write to, or chmod
    (CVE-2019-5736).
    """
    clone = mount.clone_tree(AT_FDCWD, os.fsencode(os.path.realpath(program)))
    try:
        mount.mount_setattr(
            clone,
            attributes=MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV,
            propagation=Propagation.PRIVATE,
        )
        fd = fcntl.fcntl(clone, fcntl.F_DUPFD_CLOEXEC, _LISTENER_FD + 1)
    finally:
        os.close(clone)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _make_directory(directory: str) -> socket.socket:
    """A monitor's directory, and in it the socket on which it will listen."""
    os.makedirs(f"{directory}/exits", mode=0o700, exist_ok=True)
    return fds.bind(f"{directory}/monitor.sock")
