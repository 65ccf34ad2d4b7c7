"""The daemon's side of the workers: starts them, gives them jobs, kills them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final, TypeVar

from image.errors import ImageFault, PullCancelled, WorkerLost
from image.worker.messages import (
    LENGTH,
    LIMIT,
    Answer,
    Failed,
    Job,
    Message,
    Progress,
    Resolve,
    decode,
    encode,
)

_RESOLVES: Final = 8  # resolve jobs at a time; they wait for the network, mostly
# What a worker gets of our environment; -I makes it ignore Python's own variables anyway.
_ENVIRONMENT: Final = (
    *("PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
T = TypeVar("T")


async def finished(work: Coroutine[None, None, T]) -> T:
    """Wait for `work` to its end, even if we are cancelled meanwhile; that shows afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def _start(
    command: list[str], environment: dict[str, str], channel: socket.socket
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,  # a Ctrl-C at the daemon's terminal is the daemon's
    )


class Worker:
    """One process, and the socket to it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, lock_file: Path) -> Worker:
        """A new process; it can be given a job at once, while it still starts."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-m", "image.worker", os.fspath(lock_file)]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with theirs:
            process = await asyncio.to_thread(_start, command, environment, theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def alive(self) -> bool:
        """Its process has not ended."""
        return self._process.poll() is None

    async def run(self, job: Job, report: Callable[[Progress], None], patience: float) -> Answer:
        """Raises PullCancelled after `patience` seconds without progress, WorkerLost."""
        try:
            self._writer.write(encode(job))
            while True:
                async with asyncio.timeout(patience):
                    message = await self._receive()
                if isinstance(message, Progress):
                    report(message)
                elif isinstance(message, Answer):
                    return message
                else:
                    raise ValueError(f"a worker sent {message}")
        except TimeoutError:
            raise PullCancelled(f"no progress for {patience:.0f} s") from None
        except (OSError, EOFError, ValueError) as error:
            await self.stop()
            code = self._process.returncode
            why = f"killed by signal {-code}" if code and code < 0 else f"exit status {code}"
            raise WorkerLost(f"a worker process ended in the middle of its job: {why}") from error

    async def _receive(self) -> Message:
        size = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))[0]
        if size > LIMIT:
            raise ValueError(f"a message of {size} bytes")
        return decode(await self._reader.readexactly(size))

    async def stop(self) -> None:
        """Kill it, and wait until it is gone: after that it writes nothing any more."""
        self._process.kill()
        self._writer.close()
        await asyncio.to_thread(self._process.wait)


class Pool:
    """Workers, at most `limit` of them busy with layers.

    lock_file: see `image.worker.__main__`; patience: seconds without progress a job may take;
    idle_seconds: how long a worker without work is kept.
    """

    def __init__(
        self, limit: int, lock_file: Path, *, patience: float, idle_seconds: float
    ) -> None:
        self._lock_file = lock_file
        self._patience = patience
        self._idle_seconds = idle_seconds
        self._layers = asyncio.Semaphore(limit)
        self._resolves = asyncio.Semaphore(_RESOLVES)
        self._limit = limit
        self._idle: list[asyncio.Task[Worker]] = []  # started, or starting
        self._busy = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def run(self, job: Job, report: Callable[[Progress], None] = lambda _: None) -> Answer:
        """The answer to a job, never Failed: that is raised as the error it carries.

        Cancelled, it kills the worker and returns when that is gone.
        """
        async with self._resolves if isinstance(job, Resolve) else self._layers:
            worker = await self._take()
            self._busy += 1
            try:
                answer = await worker.run(job, report, self._patience)
            except BaseException:
                await finished(worker.stop())
                raise
            finally:
                self._busy -= 1
            self._rest(worker)
        if isinstance(answer, Failed):
            raise answer.error()
        return answer

    async def run_apart(self, job: Job) -> Answer:
        """As `run`, by a worker that is ended with the job, and takes no place of a layer's."""
        worker = await Worker.start(self._lock_file)
        try:
            answer = await worker.run(job, lambda _: None, self._patience)
        finally:
            await finished(worker.stop())
        if isinstance(answer, Failed):
            raise answer.error()
        return answer

    async def _take(self) -> Worker:
        """A worker that lives: somebody may have killed an idle one for its memory."""
        while True:
            task = self._idle.pop() if self._idle else self._start()
            try:
                worker = await asyncio.shield(task)
            except asyncio.CancelledError:
                self._idle.append(task)  # for the next one, or to be dismissed
                self._set_timer()
                raise
            if worker.alive:
                return worker
            await worker.stop()

    def _start(self) -> asyncio.Task[Worker]:
        return asyncio.ensure_future(Worker.start(self._lock_file))

    def warm(self, count: int) -> None:
        """Begin to start workers, up to `count` in all: a pull is about to need them."""
        for _ in range(min(count, self._limit) - len(self._idle) - self._busy):
            self._idle.append(self._start())
        self._set_timer()

    def _rest(self, worker: Worker) -> None:
        self._idle.append(asyncio.ensure_future(_itself(worker)))
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._idle_seconds, self._dismiss)

    def _dismiss(self) -> None:
        """Nobody needed a worker for a while."""
        idle, self._idle = self._idle, []
        for worker in idle:
            task = asyncio.ensure_future(_stop(worker))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """End all workers. Jobs under way are the business of those who run them."""
        if self._timer is not None:
            self._timer.cancel()
        self._dismiss()
        if self._stopping:
            await asyncio.wait(tuple(self._stopping))


async def _itself(worker: Worker) -> Worker:
    return worker


async def _stop(worker: asyncio.Task[Worker]) -> None:
    await (await worker).stop()


async def expect(kind: type[T], answer: Coroutine[None, None, Answer]) -> T:
    """The answer, which has to be of this kind."""
    found = await answer
    if not isinstance(found, kind):
        raise ImageFault(f"a worker answered {type(found).__name__} instead of {kind.__name__}")
    return found
