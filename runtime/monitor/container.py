"""One container in its monitor: from the request to start it to its written-down exit."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.cgroup.tree import Cgroup
from runtime.codec import decode
from runtime.errors import InitFailed, RuntimeFault
from runtime.init import channel, launch
from runtime.init.values import ContainerPlan, ProcessPlan
from runtime.init.values import Identity as PlanIdentity
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.monitor.birth import Birth
from runtime.monitor.command import Command
from runtime.monitor.logfile import LogFile
from runtime.monitor.messages import (
    ContainerExit,
    Exec,
    ExecStream,
    Identity,
    RunningContainer,
    Start,
)
from runtime.monitor.stdio import OutputStream

if TYPE_CHECKING:
    from runtime.monitor.attachment import Attachment
    from runtime.monitor.pod import Pod

Answer = Callable[[object], None]
Said = channel.Said | None
Refusal = InitFailed | None
_KILLED = "killed before it could become the container"
_TOO_SMALL = "killed by the kernel: the memory limit is too small even to start: raise it"


class State(enum.Enum):
    """STARTING -> RUNNING -> EXITED; a start that fails leaves no container.

    ENDING, before EXITED: its processes are gone, and its last hooks run.
    """

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    EXITED = "exited"


# Looked up once: a member of an enumeration is found by Python.
STARTING, RUNNING, EXITED = State.STARTING, State.RUNNING, State.EXITED


class Container:
    """A container of `pod`. Everything it holds is released when it has ended."""

    def __init__(self, pod: Pod, request: Start) -> None:
        self.request = request
        self.state = STARTING
        self.exit: ContainerExit | None = None
        self.pid = 0
        self.pidfd = -1
        self.unwanted = False  # somebody has killed it, or wants to
        self._pod = pod
        self._channel: Socket | None = None
        self._words: channel.Words | None = None  # which tell `who`
        self._complaint = ""
        self._answer: Answer | None = None
        self._failure: BaseException | None = None
        self._log: LogFile | None = None
        self._log_file = LogFile()
        self._streams: list[OutputStream] = []
        self._stdout = OutputStream(pod.loop, "stdout")
        self._stderr = OutputStream(pod.loop, "stderr")
        self._stdin_fd = -1
        self.attachments: list[Attachment] = []
        self._plan_fd = -1
        self.birth: Birth | None = None  # of its first process, where that is sheltered
        self._started_at = 0
        self._stages: list[object] = []
        self._init_stages = ""
        self._warnings: list[str] = []
        self._when_ended: list[Callable[[], None]] = []
        self._oom_killed: bool | None = None  # None: nobody has looked

    @property
    def id(self) -> str:
        return self.request.container_id

    @property
    def who(self) -> PlanIdentity | None:
        """Who its first process is; None: it has not told yet."""
        return None if self._words is None else channel.identity(self._words)

    @property
    def cgroup(self) -> Cgroup:
        return self._pod.hierarchy.cgroup(self.request.cgroup_path)

    @property
    def runs(self) -> bool:
        """As the daemon sees it: it has been started, and its end has not been told."""
        ending = self.state is State.ENDING and self._failure is None
        return ending or self.state is RUNNING

    @property
    def running(self) -> RunningContainer:
        who = self.who
        identity = Identity(who.uid, who.gid, who.groups) if who else Identity()
        return RunningContainer(self.id, self.pid, self._started_at, identity)

    def start(self, descriptors: list[int], answer: Answer, refusal: Refusal = None) -> None:
        """Forks the container's init; `answer` gets Started or an exception when it is decided.

        descriptors: as Start says; the caller's to close. refusal: why it is not to be forked.
        """
        self._answer = answer
        try:
            if refusal is not None:
                raise refusal
            self._launch(descriptors)
        except (OSError, ValueError, RuntimeFault) as error:
            self._give_up(error)

    @property
    def exposed(self) -> bool:
        """Its init is in the sight of other containers; see `turn`."""
        return self._channel is not None and not self.birth and self.request.pid_namespace != "own"

    def signal(self, number: int) -> None:
        """To the first process; SIGKILL to every one, for not all need to die with the first."""
        if number == signal.SIGKILL:
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def pid_namespace_fd(self) -> int:
        """Of its first process; the caller's to close."""
        return os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def command(self, request: Exec | ExecStream) -> Command:
        """One that is to be run in it."""
        return Command(self, request, self._pod)

    def kill(self) -> None:
        """SIGKILL to all its processes. The exit comes by the reaper."""
        self.unwanted = True
        if self.state is EXITED or self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.request.pid_namespace == "own":
            self.cgroup.thaw()
        else:
            self.cgroup.kill()

    @property
    def stdin_fd(self) -> int:
        """Where input goes: the pipe's write end, or the terminal's master; -1: nowhere."""
        if self.request.terminal:
            return self._streams[0].fd if self._streams else -1
        return self._stdin_fd

    def close_stdin(self) -> None:
        """End of file for who reads it. A terminal has none."""
        fds.close_all((self._stdin_fd,))
        self._stdin_fd = -1

    @property
    def remote_terminal(self) -> bool:
        """Somebody else holds the terminal's master: what it prints comes by a pipe."""
        return False

    def resize(self, width: int, height: int) -> None:
        """Of a remote terminal."""

    def output(self, number: int) -> OutputStream | None:
        """Stream 1 or 2; a terminal's is 1. None: it has ended."""
        stream = self._streams[number - 1] if number <= len(self._streams) else None
        return stream if stream is not None and stream.open else None

    def reopen_log(self) -> None:
        if self._log is not None:
            self._log.reopen()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Called once the container has ended, however it did."""
        self._when_ended.append(callback)

    def _launch(self, descriptors: list[int]) -> None:
        begin = time.monotonic_ns()
        request, pod = self.request, self._pod
        plan_fd, *cgroup_fds = descriptors
        self._plan_fd = os.dup(plan_fd)  # for the commands that will be run in here
        self._open_log()
        unified = pod.hierarchy.version == 2
        stdio: list[int] = []
        pid_ns_fd = -1
        try:
            self._make_pipes(stdio)
            pid_ns_fd = pod.pid_namespace_fd(request.pid_namespace)
            sheltered = pod.shelters(request, pid_ns_fd)
            surroundings = launch.Surroundings((stdio[0], stdio[1], stdio[2]))
            surroundings.mount_ns_fd = pod.facts.mount_fd
            surroundings.pid_ns_fd = pid_ns_fd
            surroundings.sheltered = sheltered
            surroundings.own_pid_namespace = request.pid_namespace == "own"
            surroundings.cgroup_fd = cgroup_fds[0] if unified and cgroup_fds else -1
            surroundings.tasks = () if unified else tuple(cgroup_fds)
            surroundings.user_ns_fd = pod.facts.user_fd
            child = self._fork_init(surroundings)
        finally:
            fds.close_all((*stdio, pid_ns_fd))
        self.pid, self.pidfd, self._channel = child.pid, child.pidfd, child.channel
        if sheltered:
            self.birth = Birth(pod.reaper, child.pid, self._hear_one, self._on_exit)
        else:
            pod.reaper.expect(child.pid, self._on_exit)
        pod.loop.watch(child.channel.fileno(), self._on_message)
        self._stages.append(("fork init", begin, time.monotonic_ns() - begin))

    def _fork_init(self, surroundings: launch.Surroundings) -> launch.Child:
        return self._pod.launch_container(self.load_plan, surroundings)

    def load_plan(self) -> ContainerPlan:
        """Only for a forked child: see runtime.init.launch."""
        return decode(ContainerPlan, self._plan())

    def load_process(self) -> ProcessPlan:
        """The same, for a command: what the container's first process was given."""
        return decode(ProcessPlan, self._plan().get("process"), path="process")

    def _plan(self) -> fds.Message:
        size = os.fstat(self._plan_fd).st_size
        return fds.parse(os.pread(self._plan_fd, size, 0))

    def _open_log(self) -> None:
        """If there is to be one. Raises InitFailed."""
        if self.request.log_path:
            self._log_file.open(self.request.log_path)
            self._log = self._log_file

    def _drain(self, stream: OutputStream, fd: int) -> None:
        """What comes out of `fd` goes to the log from now on."""
        stream.begin(fd, self._log)
        self._streams.append(stream)

    def _make_pipes(self, ends: list[int]) -> None:
        """Adds the container's ends of its stdio (-1: /dev/null); our ends go to the log."""
        if self.request.terminal:
            ends += (-1, -1, -1)  # the terminal's master comes by the channel
            return
        stdin = -1
        if self.request.stdin:
            stdin, self._stdin_fd = os.pipe2(os.O_CLOEXEC)
        ends.append(stdin)
        for stream in (self._stdout, self._stderr):
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            self._drain(stream, read_fd)
            ends.append(write_fd)

    def _on_message(self) -> None:
        """Init talks while it becomes the container; its silence, by execve, is success."""
        try:
            assert self._channel is not None
            self._hear(channel.receive(self._channel))
        except (OSError, ValueError, InitFailed) as error:
            self._give_up(error)

    def _hear(self, said: Said) -> None:
        match said:
            case None if self._words is None:
                self._look_for_oom_kills()
                self._give_up(InitFailed("init", 0, _TOO_SMALL if self._oom_killed else _KILLED))
            case None:
                self._run()
            case channel.Ready():
                self._words = said.words
                self._warnings += said.warnings
                self._init_stages = said.stages
            case channel.Born():
                fds.close_all((self.pidfd,))
                assert self.birth is not None
                self.pid, self.pidfd = said.pid, -1
                self.pidfd = self.birth.of(said.pid)
            case channel.Console():
                self._drain(self._stdout, said.master_fd)
            case channel.Paused():
                self._pod.hand_over(self, said.stage, (self.pid, self.pidfd), self._channel)
            case channel.Failed():
                self._give_up(InitFailed(said.step, said.errno, said.text))

    def _run(self) -> None:
        """The program runs: the channel closed when init became it."""
        self._close_channel()
        self.state = RUNNING
        self._started_at = time.time_ns()
        assert self._words is not None
        self._say(
            {  # as Started, without making one
                "pid": self.pid,
                "started_at": self._started_at,
                "identity": self._words[:3],
                "stages": self._stages,
                "steps": self._init_stages,
                "warnings": self._warnings,
            }
        )

    def _give_up(self, error: BaseException) -> None:
        """The start has failed; when init is gone, everything is released and the answer given."""
        if self._failure is not None:
            return
        self._failure = error
        self._close_channel()
        if self.pidfd < 0:
            self._end(0)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _hear_one(self) -> bool:
        """Whether there was anything to be heard."""
        if self._channel is None:
            return False
        self._on_message()
        return True

    def _on_exit(self, code: int) -> None:
        """The reaper has seen the end. A short-lived program's start may not have been read yet."""
        while self._hear_one():
            pass
        self._end(code)

    def _end(self, code: int, finished_at: int = 0) -> None:
        finished_at = finished_at or time.time_ns()
        self._release()
        if self._failure is None:
            killed = bool(self._oom_killed) and code != 0
            self.exit = ContainerExit(
                self._pod.sandbox_id, self.id, code, finished_at, killed, self._complaint
            )
        self._conclude()

    def _conclude(self) -> None:
        """Everything is given back: says so."""
        self.state = EXITED
        if self._failure is not None:
            self._say(self._failure)
        else:
            self._pod.ended(self)
        for callback in self._when_ended:
            callback()
        self._when_ended.clear()

    def _look_for_oom_kills(self) -> None:
        """Before the cgroup is removed; once."""
        if self._oom_killed is None:
            self._oom_killed = self._pod.oom_kills_of(self) > 0

    def _release(self) -> None:
        """Gives back all that the container held."""
        try:
            cgroup = self.cgroup
            self._look_for_oom_kills()
            if self.request.pid_namespace != "own":  # others may have outlived the first
                cgroup.kill()
            cgroup.remove()
        except (OSError, RuntimeFault) as error:
            self._complaint = f"cgroup {self.request.cgroup_path} could not be removed: {error}"
        for stream in self._streams:
            stream.finish()
        for attachment in tuple(self.attachments):
            attachment.end()
        if self._log is not None:
            if lost := self._log.lost_bytes:
                self._complaint = f"{lost} bytes of output were lost: {self._log.error}"
            self._log.close()
            self._log = None
        fds.close_all((self._stdin_fd, self.pidfd, self._plan_fd))
        self._stdin_fd = self.pidfd = self._plan_fd = -1

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._pod.loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _say(self, result: object) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            self._pod.decided(self, result, answer)
