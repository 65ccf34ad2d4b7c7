"""Start a daemon of the bench, wait for it to answer, stop it by pid."""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.accounting import Group

PATIENCE = 20.0
"""Seconds for a daemon to accept connections."""


@dataclass(slots=True)
class Daemon:
    """A background process whose output goes to `log`, inside `group` where one is given."""

    name: str
    command: Sequence[str]
    log: Path
    group: Group | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        steps = ["set -e"]
        if self.group is not None:
            self.group.create()
            steps.append(f"echo $$ > {shlex.quote(str(self.group.procs_file()))}")
        steps.append("exec " + shlex.join(self.command))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", "\n".join(steps)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={key: text for key, text in os.environ.items() if not key.startswith("GRPC_")},
            )  # fmt: skip

    def wait_for(self, address: str | tuple[str, int]) -> None:
        """Until something accepts connections at a unix socket's path or (host, port)."""
        assert self.process is not None
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(address)
                    return
                except OSError as refusal:
                    error = refusal
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.name} does not listen at {address} ({error}):\n{self.tail()}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end; after ten seconds make it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        """The last lines that it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
