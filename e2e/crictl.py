"""crictl on a node, as a person uses it: commands that end, commands that go on, and a terminal.

crictl("pods", "-q")                          # ends; its output
with crictl.started("logs", "-f", name) as following:
    following.expect("first line")            # goes on; what it has said so far
with crictl.terminal("exec", "-it", name, "sh") as terminal:
    terminal.type("stty size\\n")              # on a pseudo terminal of its own
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.kubelet import PATIENCE
from e2e.node import tool

if TYPE_CHECKING:
    from e2e.node import Node

NAMED = "PODWRIGHT_CRICTL"
"""Names the program where it is not in PATH."""


def program() -> str:
    """The path of crictl; "" where there is none."""
    return os.environ.get(NAMED) or shutil.which("crictl") or ""


@dataclass(slots=True)
class Running:
    """A command that goes on. `output`: what has been read of it, carriage returns left out."""

    process: subprocess.Popen[bytes]
    reader_fd: int
    writer_fd: int = -1
    output: str = ""

    def expect(self, text: str) -> str:
        """Reads until `text` has come; what was read. AssertionError if it doesn't come."""
        self.read_until(lambda: text in self.output, repr(text))
        return self.output

    def read_until(self, enough: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Reads until `output` is enough. AssertionError, quoting it, if it never is."""
        deadline = time.monotonic() + patience
        while not enough():
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.reader_fd], [], [], left)
            assert ready, f"{what} does not come, only {self.output!r}"
            assert self._read(), f"{what} has not come, and it ended: {self.output!r}"

    def type(self, text: str) -> None:
        """Writes to its standard input."""
        os.write(self.writer_fd, text.encode())

    def resize(self, width: int, height: int) -> None:
        """Changes the size of its terminal: the kernel tells it by SIGWINCH."""
        fcntl.ioctl(self.reader_fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code; `output` is whole then."""
        deadline = time.monotonic() + patience
        while select.select([self.reader_fd], [], [], max(0, deadline - time.monotonic()))[0]:
            if not self._read():
                break
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """Ends it if it still runs."""
        self.process.kill()
        self.process.wait()
        for fd in {self.reader_fd, self.writer_fd} - {-1}:
            os.close(fd)

    def _read(self) -> bool:
        """Whether there was something; a terminal without a program reads as EIO."""
        try:
            data = os.read(self.reader_fd, 1 << 16)
        except OSError:
            return False
        self.output += data.decode(errors="replace").replace("\r", "")
        return bool(data)


@dataclass(slots=True)
class Crictl:
    """Runs crictl in a node's namespaces, told by a file of its own where the daemon listens."""

    node: Node = field(repr=False)
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.node.directory / "crictl.yaml"
        endpoint = self.node.address
        self.config.write_text(f"runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\n")

    def words(self, *words: str) -> list[str]:
        return self.node.command(program(), f"--config={self.config}", *words)

    def __call__(self, *words: str, code: int = 0, stdin: str = "") -> str:
        """Runs a command until it ends, which it has to do with `code`; what it said."""
        done = subprocess.run(
            self.words(*words),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, command: str, *words: str) -> dict[str, Any]:
        """The same for a command that answers an object in JSON."""
        answer = json.loads(self(command, "-o", "json", *words))
        assert isinstance(answer, dict)
        return answer

    @contextlib.contextmanager
    def started(self, *words: str) -> Iterator[Running]:
        """A command on pipes, ended with the block."""
        process = subprocess.Popen(
            self.words(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        running = Running(process, os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()))
        process.stdin.close()
        process.stdout.close()
        with contextlib.closing(running):
            yield running

    @contextlib.contextmanager
    def terminal(self, *words: str, width: int = 80, height: int = 24) -> Iterator[Running]:
        """A command whose controlling terminal is a new one, ended with the block."""
        master, slave = os.openpty()
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)
        command = [tool("setsid"), "--ctty", "--wait", *self.words(*words)]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        with contextlib.closing(Running(process, master, master)) as running:
            yield running
