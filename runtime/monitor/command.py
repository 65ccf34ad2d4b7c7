"""A command that is run in a container: exec."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.errors import ContainerNotFound, InitFailed
from runtime.init import channel, launch
from runtime.init.values import ProcessPlan
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.monitor.birth import Birth
from runtime.monitor.messages import Exec, ExecStream, Executed

if TYPE_CHECKING:
    from runtime.monitor.container import Container
    from runtime.monitor.loop import Timer
    from runtime.monitor.pod import Pod

Answer = Callable[[object], None]
Begun = Callable[[object, list[int]], None]
_ROUNDS = 20  # of looking for processes that were forked while we looked


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, as far as the kernel's table of parents tells.

    Complete for a child subreaper: what loses its parent becomes its child, not another's.
    """
    children = _children if os.path.exists("/proc/thread-self/children") else _by_parent().get
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children(queue.pop()) or []
        found += below
        queue += below
    return found


def _children(pid: int) -> list[int]:
    """Of a process, as proc_pid_task_children(5) has them for each thread; [] if it is gone."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, _content(f"/proc/{pid}/task/{thread}/children").split())
    return found


def _by_parent() -> dict[int, list[int]]:
    """The same of all processes, for kernels without CONFIG_PROC_CHILDREN: each is asked."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int(_content(f"/proc/{name}/stat").rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    return children


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class Command:
    """One exec'ed process; a child subreaper, so that its descendants can be found and killed."""

    def __init__(self, container: Container, request: Exec | ExecStream, pod: Pod) -> None:
        self._container = container
        self._request = request
        self._pod = pod
        self.begun: Begun | None = None  # told once the program runs, given the terminal's master
        self._console_fd = -1
        self._pid = 0
        self._pidfd = -1
        self._channel: Socket | None = None
        self._timer: Timer | None = None
        self._timed_out = False
        self._ready = False
        self._birth: Birth | None = None
        self._unwanted = False
        self._failure: BaseException | None = None
        self._answer: Answer = _nobody

    def start(self, stdio: list[int], answer: Answer) -> None:
        """stdio: stdin, stdout, stderr (-1: the container's /dev/null), the caller's to close."""
        self._answer = answer
        container, pod = self._container, self._pod
        cgroup = container.cgroup
        clone_fd: int | None = None
        pid_ns_fd, tasks = -1, list[int]()
        try:
            clone_fd = cgroup.clone_fd(beside=container.pid)
            pid_ns_fd = container.pid_namespace_fd()
            sheltered = not pod.untraced
            tasks = cgroup.attach_fds()
            surroundings = launch.Surroundings((stdio[0], stdio[1], stdio[2]))
            surroundings.pid_ns_fd = pid_ns_fd
            surroundings.own_pid_namespace = False
            surroundings.sheltered = sheltered
            surroundings.cgroup_fd = -1 if clone_fd is None else clone_fd
            surroundings.tasks = tuple(tasks)
            surroundings.subreaper = True
            surroundings.user_ns_fd = pod.facts.user_fd
            child = self._fork(surroundings)
        except OSError as error:
            if error.errno == errno.ENOMEM:  # its pid namespace has no first process any more
                raise ContainerNotFound(container.id) from error
            raise
        finally:
            fds.close_all((-1 if clone_fd is None else clone_fd, pid_ns_fd, *tasks))
        self._pid, self._pidfd, self._channel = child.pid, child.pidfd, child.channel
        if sheltered:
            self._birth = Birth(pod.reaper, child.pid, self._hear, self._on_exit)
        else:
            pod.reaper.expect(child.pid, self._on_exit)
        pod.loop.watch(child.channel.fileno(), self._on_message)
        if isinstance(self._request, Exec) and self._request.timeout > 0:
            self._timer = pod.loop.after(self._request.timeout, self._time_out)

    def _fork(self, surroundings: launch.Surroundings) -> launch.Child:
        return self._pod.launch_process(self._load_plan, self._target, surroundings)

    def _target(self) -> launch.Target:
        """Only for the forked child, as the plan."""
        return launch.Target(self._container.pidfd, self._container.who)

    def _load_plan(self) -> ProcessPlan:
        """Only for the forked child: the container's process, but for what it runs."""
        container = self._container
        assert container.who is not None
        plan = container.load_process()
        terminal = isinstance(self._request, ExecStream) and self._request.terminal
        env = plan.env
        if terminal and not any(item.startswith("TERM=") for item in env):
            env = (*env, "TERM=xterm")
        return replace(
            plan,
            args=self._request.args,
            env=env,
            terminal=terminal,
            identity=container.who,
            lookup=None,
        )

    @property
    def exposed(self) -> bool:
        """It is being prepared in the container's sight; see `turn`."""
        return self._channel is not None and self._birth is None

    def kill(self) -> None:
        """SIGKILL to the command and all its descendants.

        They are stopped first, the parents before the children: what is stopped forks no more.
        """
        self._unwanted = True
        if self._pidfd < 0:
            return
        seen: set[int] = set()
        _signal(self._pid, signal.SIGSTOP)
        for _ in range(_ROUNDS):
            new = set(descendants(self._pid)) - seen
            if not new:
                break
            for pid in new:
                _signal(pid, signal.SIGSTOP)
            seen |= new
        for pid in (*seen, self._pid):
            _signal(pid, signal.SIGKILL)

    def end_input(self) -> None:
        """The client has closed its pipe, and nobody is in between."""

    def resize(self, width: int, height: int) -> None:
        """The client's terminal, whose master we have given away, has another size."""

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()

    def _on_message(self) -> None:
        assert self._channel is not None
        try:
            said = channel.receive(self._channel)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return
        if said is None:
            self._close_channel()
            self._begin()
        elif isinstance(said, channel.Ready):
            self._ready = True
        elif isinstance(said, channel.Failed):
            if said.errno == errno.ESRCH:  # it has ended since we looked
                self._give_up(ContainerNotFound(self._container.id))
            else:
                self._give_up(InitFailed(said.step, said.errno, said.text))
        elif isinstance(said, channel.Born):
            self._be_born(said.pid)
        elif isinstance(said, channel.Console):
            self._console_fd = said.master_fd
        elif isinstance(said, channel.Paused):
            self._hand_over(said.stage)

    def _hand_over(self, stage: str) -> None:
        """Somebody is to answer for its seccomp filter."""
        process = (self._pid, self._pidfd)
        try:
            self._pod.hand_over(self._container, stage, process, self._channel)
        except (InitFailed, OSError) as error:
            self._give_up(error)

    def _be_born(self, pid: int) -> None:
        """From here on the process is another one, and who has prepared it ends."""
        assert self._birth is not None
        fds.close_all((self._pidfd,))
        self._pid, self._pidfd = pid, -1
        self._pidfd = self._birth.of(pid)
        if self._unwanted:
            self.kill()

    def _hear(self) -> bool:
        """Whether there was anything to be heard."""
        if self._channel is None:
            return False
        self._on_message()
        return True

    def _begin(self) -> None:
        """The program runs; whoever waits for it gets the terminal, which is nobody else's."""
        if self.begun is not None and self._ready:
            self.begun({}, [self._console_fd] if self._console_fd >= 0 else [])
        self._close_console()

    def _close_console(self) -> None:
        fds.close_all((self._console_fd,))
        self._console_fd = -1

    def _give_up(self, error: BaseException) -> None:
        self._failure = error
        self._close_channel()
        self.kill()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._pod.loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _on_exit(self, code: int) -> None:
        while self._channel is not None:
            self._on_message()
        fds.close_all((self._pidfd,))
        self._pidfd = -1
        self._close_console()
        if self._timer is not None:
            self._timer.cancel()
        if self._failure is None and not self._ready and not self._timed_out:
            self._failure = InitFailed("init", 0, "killed before it could run the command")
        self._answer(self._failure or Executed(code, self._timed_out))


def _nobody(_result: object) -> None:
    pass


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
