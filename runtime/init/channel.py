"""What the monitor and its child say to each other between fork and exec.

    monitor                               init
       │ ── clone3 ─────────────────────────▶ │ reads the plan, makes the root file system, mounts,
       │                                      │ joins its cgroup, masks, pivots …
       │ ◀─ console (the terminal's master) ──│ only with a terminal
       │ ◀─ born    (pid) ────────────────────│ if it is sheltered: who is the process from here on
       │ ◀─ ready   (identity, stages, warnings)
       │ ◀─ paused  (stage, descriptors) ─────│ only with hooks, at two places: init waits
       │ ── go ─────────────────────────────▶ │
       │                                      │ seccomp
       │ ◀─ paused  (listener) ───────────────│ only where the filter has one: taken by pidfd
       │ ── go ─────────────────────────────▶ │
       │                                      │ execve
       │ ◀─ end of file ──────────────────────│ the descriptor was close-on-exec: exec succeeded
       │
       │ ◀─ failed  (step, errno, text) ──────│ instead of any of these; then the child exits

If the monitor dies, init writes into a closed socket, and exits. All of it is one unix SEQPACKET
socket pair.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from runtime.init.values import Identity
from runtime.linux import fds
from runtime.linux.fds import Socket

Stage = tuple[str, int, int]  # name, start (CLOCK_MONOTONIC, ns), duration (ns)
Words = list[object]  # uid, gid, groups, home

_MOST_TEXT = 4096  # characters of a failure's text: a user's name may be as long as an image likes
_GO = b"go"
LISTENER = "listener"  # of the stage in which the monitor takes it; its descriptor follows
EXIT_FAILED = 127  # of an init that could not become the process it should


@dataclass(slots=True)  # not frozen: to make such a one costs a monitor memory
class Ready:
    """Everything is in place; the next thing is execve.

    words: see `identity`; stages: see `stages`, the monitor hands them on as they came; warnings:
    what was asked for but can't be given (a capability, an oom score), a sentence each.
    """

    words: Words
    stages: str
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Console:
    """The container's terminal. The receiver owns the descriptor."""

    master_fd: int


@dataclass(frozen=True, slots=True)
class Born:
    """The process has come to be, as the monitor's child; who has prepared it ends."""

    pid: int


@dataclass(frozen=True, slots=True)
class Paused:
    """Init waits for `resume`. The receiver owns the descriptors."""

    stage: str
    descriptors: Sequence[int]


@dataclass(frozen=True, slots=True)
class Failed:
    """See `runtime.errors.InitFailed`, which the facade makes of it."""

    step: str
    errno: int
    text: str


Said = Ready | Console | Born | Paused | Failed


def receive(peer: Socket) -> Said | None:
    """The monitor's side: the next message; None: exec succeeded, or init was killed."""
    try:
        received = fds.receive(peer)
    except BlockingIOError:  # after `wait_no_more`
        received = None
    if received is None:
        return None
    message, descriptors = received
    kind = message["type"]
    if kind == "console":
        return Console(descriptors[0])
    if kind == "paused":
        return Paused(str(message["stage"]), descriptors)
    fds.close_all(descriptors)
    if kind == "born":
        peer.setblocking(True)  # noqa: FBT003 - see `wait_no_more`: another one speaks from here on
        return Born(cast(int, message["pid"]))
    if kind == "failed":
        step, number, text = cast(list[object], message["failure"])
        return Failed(str(step), cast(int, number), str(text))
    if kind != "ready":
        raise ValueError(f"init said {kind!r}")
    words, warnings = message["identity"], message["warnings"]
    assert isinstance(words, list)
    assert isinstance(warnings, list)
    return Ready(words, str(message["stages"]), warnings)


def wait_no_more(peer: Socket) -> None:
    """Who speaks has ended: what is not there does not come. The end of file may not either: who
    may trace a process of the container may have taken its descriptor, and keeps it."""
    peer.setblocking(False)  # noqa: FBT003 - the standard library's signature


def identity(words: Words) -> Identity:
    """Of the words by which init tells who it is."""
    uid, gid, groups, home = cast(tuple[int, int, list[int], str], words)
    return Identity(uid, gid, tuple(groups), home)


def resume(peer: Socket) -> None:
    """The monitor's side: init may go on."""
    peer.send(_GO)


def written(stages: Sequence[Stage]) -> str:
    """name,start,duration;… It is put into JSON twice, and holds nothing that JSON escapes."""
    return ";".join(f"{name},{start},{duration}" for name, start, duration in stages)


def stages(text: str) -> list[Stage]:
    """What was `written`."""
    found = (stage.rsplit(",", 2) for stage in text.split(";") if stage)
    return [(name, int(start), int(duration)) for name, start, duration in found]


class Reporter:
    """Init's side. Works with nothing but write(2) once `settle` has been called."""

    __slots__ = ("_fd", "_socket")

    def __init__(self, peer: Socket) -> None:
        self._socket = peer
        self._fd = peer.fileno()

    def console(self, master_fd: int) -> None:
        fds.send(self._socket, {"type": "console"}, (master_fd,))

    def pause(self, stage: str, descriptors: Sequence[int] = ()) -> None:
        """Waits until the monitor says that we may go on. descriptors: for it, before `settle`."""
        if descriptors:
            fds.send(self._socket, {"type": "paused", "stage": stage}, descriptors)
        else:
            self._write({"type": "paused", "stage": stage})
        if os.read(self._fd, 16) != _GO:
            raise OSError(errno.ECANCELED, "the monitor has given the container up")

    def settle(self, fd: int) -> None:
        """From now on the channel is descriptor `fd`."""
        os.dup2(self._fd, fd, inheritable=False)
        self._fd = fd

    def ready(self, identity: Identity, stages: list[Stage], warnings: Sequence[str]) -> None:
        self._write(
            {
                "type": "ready",
                "identity": (identity.uid, identity.gid, identity.groups, identity.home),
                "stages": written(stages),
                "warnings": warnings,
            }
        )

    def born(self, pid: int) -> None:
        self._write({"type": "born", "pid": pid})

    def failed(self, step: str, error: BaseException) -> None:
        """Never raises: who can't even say that he failed just exits."""
        with contextlib.suppress(OSError):
            number, text = _reason(error)
            if len(text) > _MOST_TEXT:
                text = f"{text[:_MOST_TEXT]}…"
            self._write({"type": "failed", "failure": (step, number, text)})

    def _write(self, message: dict[str, object]) -> None:
        os.write(self._fd, json.dumps(message, separators=(",", ":")).encode("ascii"))


def _reason(error: BaseException) -> tuple[int, str]:
    """Errno and text of an exception. No traceback: that would read files of the container."""
    if not isinstance(error, OSError):
        return 0, f"{type(error).__name__}: {error}"
    number = error.errno or 0
    text = error.strerror or ""
    strerror = os.strerror(number)
    text = text.removesuffix(strerror).removesuffix(": ")
    if not text:
        text = "refused by the kernel" if error.filename is None else repr(error.filename)
    return number, text
