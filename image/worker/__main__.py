"""A worker process: jobs in, answers out, on the socket that is its standard input.

    python -I -m image.worker LOCK_FILE

It holds a shared lock on LOCK_FILE as long as it lives, so that the next daemon knows when all
workers of the one before are gone; they go when their socket ends.
"""

from __future__ import annotations

import fcntl
import os
import queue
import resource
import socket
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final

from image import directory
from image.errors import ImageFault
from image.unpack.apply import Counters
from image.worker import jobs
from image.worker.messages import (
    LENGTH,
    Failed,
    Job,
    Message,
    PackDiff,
    Progress,
    Resolve,
    Settle,
    Unpack,
    decode,
    encode,
)

_REPORT: Final = 0.1  # seconds between two looks at how far the job is
_MEMORY: Final = 4 << 30  # bytes of address space; the work needs a twentieth


class Channel:
    """Messages over the socket; sends from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Raises OSError when the daemon is gone."""
        with self._sending:
            self._socket.sendall(encode(message))

    def receive(self) -> Message | None:
        """The next message; None when the daemon is gone."""
        head = self._exactly(LENGTH.size)
        return decode(self._exactly(LENGTH.unpack(head)[0])) if head else None

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                return b""
            data += part
        return data


class Reporter:
    """Tells the daemon how far the present job is, while there is one."""

    def __init__(self, channel: Channel, counters: Counters) -> None:
        self._channel = channel
        self._counters = counters
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        last = None
        while not self._over.wait(_REPORT):
            counters = self._counters
            now = Progress(counters.fetched, counters.entries, counters.written)
            if now != last:
                with suppress(OSError):  # the daemon is gone, and `_listen` ends us
                    self._channel.send(now)
                last = now


def _perform(job: Job, channel: Channel, connections: jobs.Connections) -> None:
    counters = Counters()
    try:
        with Reporter(channel, counters):
            answer = jobs.run(job, connections, counters)
        channel.send(Progress(counters.fetched, counters.entries, counters.written))
    except ImageFault as error:
        answer = Failed.of(error)
    except OSError as error:
        full = directory.full(error, _place(job))
        if full is None:
            traceback.print_exc()
        answer = Failed.of(full or error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the daemon should hear of it
        traceback.print_exc()
        answer = Failed.of(error)
    channel.send(answer)


def _place(job: Job) -> Path:
    """Where a job writes: that is what may be full."""
    match job:
        case Resolve():
            return Path(job.content)
        case Unpack() | Settle() | PackDiff():
            return Path(job.target).parent
    return Path("/")


def _listen(channel: Channel, inbox: queue.SimpleQueue[Message]) -> None:
    """Ends the process with the daemon: nobody waits for what it still does."""
    with suppress(OSError, ValueError):
        while message := channel.receive():
            inbox.put(message)
    os._exit(0)


def main(lock_file: str) -> None:
    """Work until the daemon closes the socket."""
    lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.umask(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")  # rather a worker than a pod
    channel = Channel(socket.socket(fileno=0))
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), name="listen", daemon=True).start()
    connections = jobs.Connections()
    while True:
        message = inbox.get()
        if isinstance(message, Job):
            _perform(message, channel, connections)


if __name__ == "__main__":
    main(sys.argv[1])
