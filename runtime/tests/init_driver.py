"""Runs one container as a monitor would, in a process of its own: `python -m … < request > report`.

pytest has threads and a history; a monitor has neither. The driver moves into mount, network, IPC
and UTS namespaces of its own, so whatever goes wrong is gone when it exits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import cast

from runtime import codec
from runtime.init import channel, launch, plan, rootfs, sandbox
from runtime.init.cgroups import CgroupLayout
from runtime.init.values import ContainerPlan, Identity
from runtime.linux import mount
from runtime.linux.fds import Socket
from runtime.linux.namespace import Clone, unshare
from runtime.linux.process import Prctl, prctl
from runtime.monitor.messages import SandboxRequest
from runtime.spec import Rootfs, Spec

NO_LAYERS = Rootfs()


@dataclass(frozen=True, slots=True)
class Request:
    """cgroups: paths of tasks files (v1) to move into; execs: commands run while it lives."""

    spec: Spec
    rootfs: Rootfs = NO_LAYERS
    stdin: str = ""
    execs: tuple[tuple[str, ...], ...] = ()
    exec_terminal: bool = False
    seccomp: bytes = b""
    tasks: tuple[str, ...] = ()
    unified: str = ""  # a directory of cgroup v2 to start in; the node then counts as one of v2
    own_pid_namespace: bool = True
    null_stdio: bool = False
    leak_fds: int = 0  # descriptors of the node's directories, left open without close-on-exec
    old_kernel: bool = False  # one that has no lowerdir+
    share: str = ""  # a directory to make a mount of its own, "shared"
    monitor_dies: bool = False
    rounds: int = 0


@dataclass(slots=True)
class Report:
    """failed: [step, errno, text]; identity: [uid, gid, groups, home]."""

    failed: list[object] = field(default_factory=list)
    identity: list[object] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stages: list[object] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    status: int = -1
    execs: list[object] = field(default_factory=list)
    micros: list[float] = field(default_factory=list)
    cpu: float = 0.0  # µs a round, the program's included
    faults: float = 0.0


def main() -> None:
    request = codec.decode(Request, json.load(sys.stdin))
    unshare(Clone.NEWNS | Clone.NEWNET | Clone.NEWIPC | Clone.NEWUTS)
    root = os.open("/", os.O_PATH)
    mount.mount_setattr(root, propagation=mount.Propagation.PRIVATE, recursive=True)
    os.close(root)
    holder = sandbox.make_holder()
    pod = sandbox._pod_mounts(holder, SandboxRequest("pod", shm_bytes=1 << 20))
    prctl(Prctl.SET_CHILD_SUBREAPER, 1)
    launch.warm_up()
    if request.old_kernel:
        _forget_lowerdir_plus()
    if request.share:
        _share(request.share)
    run = _bench if request.rounds else _orphan if request.monitor_dies else _run
    report = run(request, pod)
    json.dump(dataclasses.asdict(report), sys.stdout)


def _forget_lowerdir_plus() -> None:
    new_mount = mount.new_mount

    def older(kind: bytes, parameters: tuple[tuple[bytes, bytes], ...], attributes: int = 0) -> int:
        if any(key == b"lowerdir+" for key, _ in parameters):
            raise OSError(errno.EINVAL, "overlay: Unknown parameter 'lowerdir+'")
        return new_mount(kind, parameters, attributes)

    mount.new_mount = older
    rootfs._knows_lowerdir_plus = lambda: False


def _share(directory: str) -> None:
    path = directory.encode()
    clone = mount.clone_tree(mount.AT_FDCWD, path)
    mount.mount_setattr(clone, propagation=mount.Propagation.SHARED)
    mount.move_mount(clone, mount.AT_FDCWD, path)


def _plan(request: Request) -> ContainerPlan:
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        layout = CgroupLayout() if request.unified else CgroupLayout.parse(mountinfo)
    made = plan.container(
        request.spec, request.rootfs, seccomp_program=request.seccomp, cgroups=layout
    )
    return codec.decode(ContainerPlan, json.loads(json.dumps(codec.encode(made))))


def _run(request: Request, pod: int) -> Report:
    report = Report()
    ready_plan = _plan(request)
    for _ in range(request.leak_fds):
        os.set_inheritable(os.open("/", os.O_RDONLY), True)
    out, err = os.pipe(), os.pipe()
    stdin = _stdin(request.stdin)
    stdio = (-1, -1, -1) if request.null_stdio else (stdin, out[1], err[1])
    child = launch.container(
        lambda: ready_plan,
        launch.Surroundings(
            stdio=stdio,
            mount_ns_fd=pod,
            own_pid_namespace=request.own_pid_namespace,
            cgroup_fd=os.open(request.unified, os.O_RDONLY) if request.unified else -1,
            tasks=tuple(os.open(path, os.O_WRONLY) for path in request.tasks),
        ),
    )
    for fd in (stdin, out[1], err[1]):
        os.close(fd)
    said = _listen(child.channel, report)
    master = said.get("master", -1)
    if not report.failed:
        for args in request.execs:
            report.execs.append(_exec(request, ready_plan, child, args, report))
        if request.execs:
            os.kill(child.pid, 9)
    if master >= 0:
        report.stdout = _drain({master: bytearray()})[master].decode()
    else:
        texts = _drain({out[0]: bytearray(), err[0]: bytearray()})
        report.stdout, report.stderr = (texts[fd[0]].decode() for fd in (out, err))
    report.status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    return report


def _orphan(request: Request, pod: int) -> Report:
    """The container is another process's child, which is killed as soon as the container speaks."""
    report = Report()
    plan = _plan(request)
    read, write = os.pipe()
    told, tell = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        surroundings = launch.Surroundings(stdio=(-1, write, write), mount_ns_fd=pod)
        child = launch.container(lambda: plan, surroundings)
        os.write(tell, b"%d" % child.pid)
        signal.pause()
    os.close(write)
    pid = int(os.read(told, 16))
    report.stdout = os.read(read, 100).decode()
    os.kill(monitor, signal.SIGKILL)
    os.waitpid(monitor, 0)
    report.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # ours now: a subreaper's
    return report


def _exec(
    request: Request,
    container: ContainerPlan,
    child: launch.Child,
    args: tuple[str, ...],
    first: Report,
) -> dict[str, object]:
    report = Report()
    process = dataclasses.replace(container.process, args=args, terminal=request.exec_terminal)
    uid, gid, groups, home = first.identity
    who = Identity(uid, gid, tuple(groups), home)  # type: ignore[arg-type]  # from JSON
    out = os.pipe()
    pid_ns = os.open(f"/proc/{child.pid}/ns/pid", os.O_RDONLY)
    started = launch.process(
        lambda: process,
        lambda: launch.Target(child.pidfd, who),
        launch.Surroundings(stdio=(-1, out[1], out[1]), pid_ns_fd=pid_ns),
    )
    os.close(out[1])
    said = _listen(started.channel, report)
    master = said.get("master", -1)
    source = master if master >= 0 else out[0]
    report.stdout = _drain({source: bytearray()})[source].decode()
    for pid in (started.pid, said.get("pid", started.pid)):  # who prepared it, and the process
        with contextlib.suppress(ChildProcessError):
            report.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return dataclasses.asdict(report)


def _listen(peer: Socket, report: Report) -> dict[str, int]:
    found: dict[str, int] = {}
    while (said := channel.receive(peer)) is not None:
        match said:
            case channel.Ready():
                who = channel.identity(said.words)
                report.identity = [who.uid, who.gid, list(who.groups), who.home]
                report.stages = list(channel.stages(said.stages))
                report.warnings = list(said.warnings)
            case channel.Failed():
                report.failed = [said.step, said.errno, said.text]
            case channel.Console():
                found["master"] = said.master_fd
            case channel.Born():
                found["pid"] = said.pid
    return found


def _stdin(text: str) -> int:
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    return reader


def _drain(texts: dict[int, bytearray]) -> dict[int, bytearray]:
    poll = select.poll()
    for fd in texts:
        poll.register(fd)
    left = set(texts)
    while left:
        for fd, _ in poll.poll(20_000):
            try:
                part = os.read(fd, 65536)
            except OSError:  # EIO: the terminal's other side is closed
                part = b""
            texts[fd] += part
            if not part:
                poll.unregister(fd)
                left.discard(fd)
    return texts


def _bench(request: Request, pod: int) -> Report:
    """rounds times fork to exec, of the same plan; one overlay each."""
    import gc

    gc.collect()
    gc.freeze()
    gc.disable()  # as in a monitor
    report = Report()
    ready_plan = _plan(request)
    stages: dict[str, list[int]] = {}  # name: durations, ns
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(request.rounds):
        upper, work = (f"{request.rootfs.upper}-{number}{kind}" for kind in ("u", "w"))
        os.mkdir(upper)
        os.mkdir(work)
        root = dataclasses.replace(ready_plan.root, upper=upper, work=work)
        this = dataclasses.replace(ready_plan, root=root)
        before = time.monotonic_ns()
        tasks = tuple(os.open(path, os.O_WRONLY) for path in request.tasks)
        child = launch.container(
            lambda this=this: this,  # type: ignore[misc]  # bound now: the loop goes on
            launch.Surroundings(stdio=(null, null, null), mount_ns_fd=pod, tasks=tasks),
        )
        forked = time.monotonic_ns()
        for fd in tasks:
            os.close(fd)
        one = Report()
        _listen(child.channel, one)
        done = time.monotonic_ns()
        if one.failed:
            return one
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        child.channel.close()
        if number < 3:
            continue
        report.micros.append((done - before) / 1000)
        stages.setdefault("fork (monitor)", []).append(forked - before)
        ran = cast(list[channel.Stage], one.stages)
        stages.setdefault("fork (until init runs)", []).append(ran[0][1] - before)
        for name, _, duration in ran:
            stages.setdefault(name, []).append(duration)
        stages.setdefault("ready, seccomp, exec", []).append(done - ran[-1][1] - ran[-1][2])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report.cpu = (used.ru_utime + used.ru_stime) * 1e6 / request.rounds
    report.faults = used.ru_minflt / request.rounds
    report.stages = [
        (name, sorted(times)[len(times) // 2] / 1000) for name, times in stages.items()
    ]
    return report


if __name__ == "__main__":
    main()
