"""The shim of a pod, in the pod's monitor: started with the first container, or, if it is to make
the pod's sandbox, with the pod; ended with the pod.

start ─▶ address ─▶ connection ─▶ [sandbox] ─▶ Connect: whose pid to wait for ─▶ READY
READY ─▶ its connection ends, or it does: each container ends, by the shim's `delete`
the pod's end ─▶ [the sandbox's end] ─▶ Shutdown ─▶ its process has ended
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from google.protobuf.message import Message

from runtime.codec import decode
from runtime.errors import InitFailed, RuntimeFault
from runtime.linux import fds, marks
from runtime.monitor.messages import Done
from runtime.monitor.oci.bundle import namespaces
from runtime.monitor.program import Program
from runtime.monitor.shim import bundle
from runtime.monitor.shim.bundle import Around, House
from runtime.monitor.shim.chores import Chores
from runtime.monitor.shim.events import Events
from runtime.monitor.shim.link import Link, nobody
from runtime.monitor.shim.output import Log, connect, everything, where
from runtime.monitor.shim.plan import MARK, ShimPlan
from runtime.monitor.shim.sandbox_service import SandboxService
from runtime.monitor.shim.sandbox_task import SandboxTask
from runtime.monitor.shim.task import PATIENCE
from runtime.monitor.shim.task_pb2 import ConnectRequest, ConnectResponse, Empty, ShutdownRequest

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod
    from runtime.monitor.shim.container import ShimContainer

START_PATIENCE = 60.0  # seconds for a shim to come up
KILL_PATIENCE = 20.0  # then a shim is taken for hung, and is killed with all that it has
END_PATIENCE = 6.0  # a shim waits up to five seconds for its last events to be heard
SANDBOX_END_PATIENCE = 6.0  # more, where a sandbox is to end first

T = TypeVar("T", bound=Message)
OnReady = Callable[[RuntimeFault | None], None]


class State(enum.Enum):
    """NEW -> STARTING -> READY -> ENDED; from each state to ENDED."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"


class PodSandbox(Protocol):
    """What a shim makes of a pod before its first container.

    alone: it is made with the pod, and the pod ends with it.
    """

    @property
    def alone(self) -> bool: ...

    def start(self, plan: ShimPlan) -> None:
        """Makes it; the shim's `sandbox_ready`, `refuse` or `give_up` is called at the end."""

    def check(self, told: OnReady) -> None:
        """told: whether containers can be made in it."""

    def end(self, done: Callable[[], None]) -> None:
        """Takes it down. done: told when it has answered, well or not."""


class Shim:
    """handler: its name. containers: those that are to hear of the shim's end, by id."""

    def __init__(self, pod: Pod, handler: str) -> None:
        self.handler = handler
        self.containers: dict[str, ShimContainer] = {}
        self.house: House | None = None
        self.chores = Chores(pod, handler)
        self._pod = pod
        self._state = State.NEW
        self._why = ""  # of its end
        self._plan: ShimPlan | None = None  # for the sandbox's end, if it has one
        self._waiting: list[OnReady] = []
        self._ending: list[Callable[[], None]] = []
        self._link: Link | None = None
        self._events: Events | None = None
        self._log = Log(pod, handler)
        self._outputs: tuple[int, int] = (-1, -1)
        self._sandbox: PodSandbox | None = None
        self._verdict = ""  # why it is being ended, before it has
        self._cleaning = False  # what a dead shim's sandbox has left is being removed
        self._program: Program | None = None  # `start`, while it runs
        self._ours = False  # its process is our child
        self._holding = False  # the exits of strangers: one may be the shim's

    @property
    def ended(self) -> bool:
        return self._state in (State.NEW, State.ENDED)

    @property
    def gone(self) -> bool:
        """There is nothing to wait for."""
        return self.ended and not self._cleaning

    @property
    def ending(self) -> bool:
        """It has been asked to end."""
        return bool(self._ending)

    @property
    def alone(self) -> bool:
        """There can't be another after it: the pod's sandbox, made or half made, goes with it."""
        return self._sandbox is not None and self._sandbox.alone

    def step(self, verb: str) -> str:
        """What something that it does is called: "kata create"."""
        return f"{self.handler} {verb}"

    def make_sandbox(self, plan_fd: int, reply: Callable[[object], None]) -> None:
        """Before any container. plan_fd: a file, the caller's; reply: gets Done or InitFailed."""
        data = fds.parse(os.pread(plan_fd, os.fstat(plan_fd).st_size, 0))
        shared = self._pod.facts.shared_pids
        self.when_ready(
            decode(ShimPlan, data),
            "pod" if shared else "own",
            lambda failure: reply(failure or Done()),
        )

    def when_ready(self, plan: ShimPlan, pid_namespace: str, told: OnReady) -> None:
        """Starts it, unless somebody has. told: why it can't be used, None: it can.

        plan: of the first container, pid_namespace: as its Start says.
        """
        if self._state is State.READY:
            if self._sandbox is None:
                told(None)
            else:
                self._sandbox.check(told)
        elif self._state is State.ENDED:
            told(InitFailed(self.step("start"), 0, f"the pod's shim is gone: {self._why}"))
        else:
            around = self.around(self._pod.sandbox_id, pid_namespace)
            self._waiting.append(told)
            if self._state is State.NEW:
                self._state = State.STARTING
                self._start(plan, around)

    def around(self, task_id: str, pid_namespace: str) -> Around:
        """What a task finds here. pid_namespace: as Start says.

        The network goes by its pinned path: a shim that makes a machine looks for it there.
        """
        facts = self._pod.facts
        network = {"network": facts.netns_path} if facts.netns_path else {}
        return Around(task_id, facts.mount_fd, {**namespaces(self._pod, pid_namespace), **network})

    def call(
        self,
        method: str,
        request: Message,
        answer: type[T],
        told: tuple[Callable[[T], None], Callable[[RuntimeFault], None]],
        *,
        patience: float = PATIENCE,
    ) -> int:
        """See `Link.call`. Only when it is ready, or was."""
        assert self._link is not None
        return self._link.call(method, request, answer, told, patience=patience)

    def forget(self, stream: int) -> None:
        """Nobody waits for the answer to this call any more."""
        assert self._link is not None
        self._link.forget(stream)

    def fault(self, verb: str, error: RuntimeFault) -> InitFailed:
        """A call that has failed, in the shim's own words."""
        return InitFailed(self.step(verb), 0, str(error))

    def end(self, done: Callable[[], None]) -> None:
        """Its containers have ended: `done` is told when nothing of it is left."""
        self._ending.append(done)
        if len(self._ending) > 1 or self._state is State.ENDED:
            return
        if self._state is not State.READY and not self.alone:
            self._fail("the pod ends")
            return
        self._verdict = self._verdict or "the pod ends"
        patience = END_PATIENCE + (SANDBOX_END_PATIENCE if self.alone else 0)
        self._pod.loop.after(patience, lambda: self._fail(self._verdict))
        if self._sandbox is None:
            self._shut_down()
        else:
            self._sandbox.end(self._shut_down)

    def _start(self, plan: ShimPlan, around: Around) -> None:
        pod = self._pod
        out_fd, out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        error_fd, error = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._outputs = out_fd, error_fd
        program = Program(
            pod,
            self.step("start"),
            lambda code, failure: self._started(plan, code, failure),
            lambda _message, descriptors: self._hear_child(descriptors),
        )
        try:
            program.start(
                lambda peer: bundle.begin(peer, plan, around, (out, error)),
                patience=START_PATIENCE,
            )
        except OSError as fault:
            fds.close_all(self._outputs)
            self._fail(str(fault))
        else:
            self._program, self._holding = program, True
            pod.reaper.hold()
        finally:
            fds.close_all((out, error))

    def _hear_child(self, descriptors: list[int]) -> None:
        namespace_fd, place_fd, log_fd, listener_fd = descriptors
        self.house = House(namespace_fd, place_fd)
        self._log.open(log_fd)
        self._events = Events(self._pod.loop, fds.adopt(listener_fd), self._out_of_memory)

    def _started(self, plan: ShimPlan, code: int, failure: InitFailed | None) -> None:
        self._program = None
        said, complaint = (everything(fd) for fd in self._outputs)
        fds.close_all(self._outputs)
        if self._state is State.ENDED:
            return
        try:
            if failure is not None:
                raise failure
            if code:
                text = complaint.decode(errors="replace").strip() or "it does not say why"
                raise ValueError(f"exit status {code}: {text}")
            service, address = where(said)
            assert self.house is not None
            peer = connect(self.house, address)
        except InitFailed as error:
            self._fail(error.text)
        except (ValueError, OSError) as error:
            self._fail(str(error))
        else:
            self._link = Link(self._pod.loop, peer, service, self._hang_up)
            self._make(plan)

    def _make(self, plan: ShimPlan) -> None:
        """First of all, since Kata's answers nothing else before (not even Connect)."""
        if plan.sandbox_task:
            self._sandbox = SandboxTask(self, self._pod.sandbox_id)
        elif plan.pod_config:
            facts = self._pod.facts
            self._sandbox = SandboxService(self, facts.sandbox_id, facts.netns_path)
        if self._sandbox is None:
            self.sandbox_ready()
        else:
            self._plan = plan
            self._sandbox.start(plan)

    def sandbox_ready(self) -> None:
        """Containers can be made."""
        request = ConnectRequest(id=self._pod.sandbox_id)
        told = self._connected, (lambda error: self._fail(f"Connect: {error}"))
        self.call("Connect", request, ConnectResponse, told)

    def _connected(self, answer: ConnectResponse) -> None:
        def ended(code: int) -> None:
            self._fail(f"it has ended with status {code}")

        with contextlib.suppress(ChildProcessError):  # it is nobody of ours: its connection tells
            self._pod.reaper.claim(answer.shim_pid, ended)
            self._ours = True
        self._let_go()
        self._state = State.READY
        self._tell(None)

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self._pod.reaper.release()

    def _hang_up(self, why: str) -> None:
        """The connection has ended; when that was asked for, so does the shim, in a moment."""
        if not self._ending or not self._ours:
            self._fail(why)

    def refuse(self, why: str) -> None:
        """Its sandbox is of no use: whoever has made it takes it down first, as far as he does."""
        assert self._sandbox is not None
        self._verdict = self._verdict or why
        self._sandbox.end(lambda: self._fail(why))

    def _shut_down(self) -> None:
        request = ShutdownRequest(id=self._pod.sandbox_id)
        self.call("Shutdown", request, Empty, (nobody, nobody))

    def _out_of_memory(self, container_id: str) -> None:
        container = self.containers.get(container_id)
        if container is not None:
            container.out_of_memory = True

    def _fail(self, why: str) -> None:
        """The end, wanted or not: what is left is killed, and everyone is told. Idempotent."""
        if self._state is State.ENDED:
            return
        why, was_ready = self._verdict or why, self._state is State.READY
        self._state, self._why = State.ENDED, why
        self._let_go()
        if self._program is not None:
            self._program.kill()
        if not self._ending:
            fds.log(f"{self.handler}: the shim of pod {self._pod.sandbox_id} is gone: {why}")
        marks.kill(MARK, self._pod.sandbox_id)
        if self._link is not None:
            self._link.close()
        if self._events is not None:
            self._events.close()
        self._log.close()
        self._tell(InitFailed(self.step("start"), 0, why))
        for container in tuple(self.containers.values()):
            container.lose_shim(why)
        if self.alone and not self._ending:
            self._clean_up()
            if was_ready:
                self._pod.lose_sandbox(why)
        self._settle()

    def _clean_up(self) -> None:
        """Has what a dead shim has left of the pod's sandbox removed by its `delete`."""
        house, plan = self.house, self._plan
        assert house is not None
        assert plan is not None

        def done() -> None:
            self._cleaning = False
            self._settle()

        self._cleaning = True
        self.chores.delete(lambda: plan, house, self._pod.sandbox_id, done)

    def _settle(self) -> None:
        """When it is gone, and its last container has ended, whose bundles are in there."""
        if not self.gone or self._state is State.NEW:
            return
        if not self.containers and self.house is not None:
            self.house.close()
            self.house = None
        for done in self._ending:
            done()
        self._ending.clear()

    def give_up(self, why: str) -> None:
        """It is there, but of no use any more."""
        self._fail(why)

    def leave(self, container_id: str) -> None:
        """A container has ended, and does not need to hear more."""
        self.containers.pop(container_id, None)
        self._settle()

    def _tell(self, failure: RuntimeFault | None) -> None:
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            told(failure)
