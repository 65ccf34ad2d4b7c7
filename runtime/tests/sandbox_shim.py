"""A shim for tests that serves containerd's sandbox service, and has a real one do the tasks.

    monitor ──ttrpc──▶ this ──ttrpc──▶ containerd-shim-runc-v2
                        └─ sandbox service: a process that sleeps is the sandbox

Run as `sandbox_shim REAL DIRECTORY FAULT` before what a shim is given (see `program`). REAL: the
other shim; DIRECTORY: where what was asked is written down (`calls`, a line each; `sandbox.json`,
`pid`); FAULT: what it does wrong, in one word: hang=METHOD, refuse=METHOD, die=METHOD,
nonsense=METHOD, end=METHOD (the sandbox ends before METHOD is answered), os=NAME, state=NAME; or
`none`. Tells where it listens
as JSON, as shims do from containerd 1.7 on.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.monitor.shim import sandbox_pb2 as api
from runtime.monitor.shim.link import SERVICES
from runtime.monitor.shim.output import where
from runtime.monitor.shim.sandbox_service import SERVICE
from runtime.monitor.shim.task_pb2 import Empty, ShutdownRequest
from runtime.ttrpc.aio import method
from runtime.ttrpc.calls import Answering, Asking, Question, refusal, reply
from runtime.ttrpc.errors import CallFailed, Code

if TYPE_CHECKING:
    from google.protobuf.message import Message

CODE = Path(__file__).parents[2]
SLEEP = ["/bin/busybox", "sleep", "1000000"]


def program(real: str, directory: Path, fault: str = "none") -> str:
    """Writes the program to be configured, which is called as runc's shim is; its path."""
    directory.mkdir()
    path = directory / "containerd-shim-runc-v2"
    words = f"{sys.executable} -m {__name__} {real} {directory} {fault}"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH={CODE}\nexec {words} "$@"\n')
    path.chmod(0o755)
    return os.fspath(path)


def write_down(directory: Path, call: str) -> None:
    with open(directory / "calls", "a") as file:
        file.write(call + "\n")


class Sandbox:
    """The service. back: who does the tasks, by this task service."""

    def __init__(self, directory: Path, fault: str, back: Back, service: str) -> None:
        self._directory = directory
        self.fault = fault
        self._fault, _, self._word = fault.partition("=")
        self._back = back
        self._service = service
        self._process: asyncio.subprocess.Process | None = None
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.methods = {
            "CreateSandbox": method(api.CreateSandboxRequest, self._create),
            "StartSandbox": method(api.SandboxRequest, self._start),
            "Platform": method(api.SandboxRequest, self._platform),
            "WaitSandbox": method(api.SandboxRequest, self._wait),
            "SandboxStatus": method(api.SandboxStatusRequest, self._state),
            "PingSandbox": method(api.SandboxRequest, self._ping),
            "StopSandbox": method(api.StopSandboxRequest, self._stop),
            "ShutdownSandbox": method(api.SandboxRequest, self._shut_down),
        }

    @property
    def started(self) -> bool:
        return self._process is not None

    async def _begin(self, name: str) -> None:
        write_down(self._directory, name)
        if self._word != name:
            return
        if self._fault == "hang":
            await asyncio.Event().wait()
        elif self._fault == "refuse":
            raise CallFailed(
                Code.FAILED_PRECONDITION, f"{name} is not to be had today" + 65000 * "!"
            )
        elif self._fault == "die":
            os._exit(9)
        elif self._fault == "end" and self._process is not None:
            self._process.kill()
            await asyncio.wait_for(asyncio.shield(self._status), 10)

    async def _create(self, request: api.CreateSandboxRequest) -> Message:
        await self._begin("CreateSandbox")
        told = {
            "id": request.sandbox_id,
            "bundle": request.bundle_path,
            "netns": request.netns_path,
            "type": request.options.type_url,
            "options": base64.b64encode(request.options.value).decode(),
            "annotations": dict(request.annotations),
            "config": (Path(request.bundle_path) / "config.json").exists(),
        }
        (self._directory / "sandbox.json").write_text(json.dumps(told))
        return Empty()

    async def _start(self, _request: api.SandboxRequest) -> Message:
        await self._begin("StartSandbox")
        self._process = await asyncio.create_subprocess_exec(*SLEEP)
        (self._directory / "pid").write_text(str(self._process.pid))
        asyncio.ensure_future(self._process.wait()).add_done_callback(
            lambda ended: self._status.set_result(ended.result())
        )
        return api.StartSandboxResponse(pid=self._process.pid)

    async def _platform(self, _request: api.SandboxRequest) -> Message:
        await self._begin("Platform")
        name = self._word if self._fault == "os" else "linux"
        return api.PlatformResponse(platform=api.Platform(os=name, architecture="amd64"))

    async def _wait(self, _request: api.SandboxRequest) -> Message:
        await self._begin("WaitSandbox")
        code = await asyncio.shield(self._status)
        return api.WaitSandboxResponse(exit_status=128 - code if code < 0 else code)

    async def _state(self, request: api.SandboxStatusRequest) -> Message:
        await self._begin("SandboxStatus")
        state = self._word if self._fault == "state" else "SANDBOX_READY"
        return api.SandboxStatusResponse(sandbox_id=request.sandbox_id, state=state)

    async def _ping(self, _request: api.SandboxRequest) -> Message:
        await self._begin("PingSandbox")
        return Empty()

    async def _stop(self, _request: api.StopSandboxRequest) -> Message:
        await self._begin("StopSandbox")
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await asyncio.shield(self._status)
        return Empty()

    async def _shut_down(self, request: api.SandboxRequest) -> Message:
        await self._begin("ShutdownSandbox")
        told = ShutdownRequest(id=request.sandbox_id).SerializeToString()
        await self._back.ask(self._service, "Shutdown", told)  # it ends, and we with it
        return Empty()


class Back:
    """The shim that does the tasks. path: its socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._asking = Asking()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def run(self, connected: asyncio.Event) -> None:
        """Until it ends, and we with it."""
        reader, self._writer = await asyncio.open_unix_connection(self._path)
        connected.set()
        while data := await reader.read(65536):
            for answer in self._asking.feed(data):
                waiting = self._waiting.pop(answer.stream)
                if answer.failure is not None:
                    waiting.set_exception(answer.failure)
                else:
                    waiting.set_result(answer.payload)

    async def ask(self, service: str, name: str, payload: bytes) -> bytes:
        stream, data = self._asking.ask(service, name, payload)
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._writer.write(data)
        return await self._waiting[stream]


async def answer(sandbox: Sandbox, back: Back, question: Question) -> bytes:
    """What is for the sandbox is answered here, the rest by the other shim."""
    try:
        if question.service == SERVICE:
            found = sandbox.methods.get(question.method)
            if found is None:
                raise CallFailed(Code.UNIMPLEMENTED, f"there is no {question.method} here")
            if sandbox.fault == f"nonsense={question.method}":
                return reply(question.stream, b"\xff")
            payload = (await found(question.payload)).SerializeToString()
        elif question.method == "Connect" and not sandbox.started:
            raise CallFailed(Code.UNKNOWN, "not ready")  # so says Kata's
        else:
            payload = await back.ask(question.service, question.method, question.payload)
    except CallFailed as failure:
        return refusal(question.stream, Code(failure.code), failure.text)
    return reply(question.stream, payload)


async def serve(
    listener: socket.socket, real: tuple[str, str], directory: Path, fault: str
) -> None:
    """real: the other shim's service and socket."""
    service, path = real
    back = Back(path)
    sandbox = Sandbox(directory, fault, back, service)
    busy = set[asyncio.Task[None]]()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering = Answering()

        async def say(question: Question) -> None:
            writer.write(await answer(sandbox, back, question))

        while data := await reader.read(65536):
            for question in answering.feed(data):
                assert isinstance(question, Question)
                task = asyncio.create_task(say(question))
                busy.add(task)
                task.add_done_callback(busy.discard)

    connected = asyncio.Event()
    ending = asyncio.create_task(back.run(connected))
    await connected.wait()
    async with await asyncio.start_unix_server(client, sock=listener):
        await ending
    os._exit(0)


def start(arguments: list[str], directory: Path, fault: str) -> None:
    """Starts the other shim, then leaves ourselves behind, and says where we listen."""
    said = subprocess.run(arguments, stdout=subprocess.PIPE, check=True).stdout
    service, path = where(said)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.front")
    listener.listen()
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        with open(directory / "errors", "a") as errors:
            os.dup2(errors.fileno(), 2)
        asyncio.run(serve(listener, (service, path), directory, fault))
    version = next(number for number, name in SERVICES.items() if name == service)
    told = {"version": version, "address": f"unix://{path}.front", "protocol": "ttrpc"}
    sys.stdout.write(json.dumps(told))


def main() -> None:
    real, directory, fault, *rest = sys.argv[1:]
    if rest[-1] == "start":
        start([real, *rest], Path(directory), fault)
        return
    write_down(Path(directory), rest[-1])
    os.execv(real, [real, *rest])


if __name__ == "__main__":
    main()
