"""Processes in cgroups, for tests."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from collections.abc import Callable

from runtime.cgroup import files, tree
from runtime.cgroup.limits import Limits, limits
from runtime.cgroup.tree import Cgroup
from runtime.linux.process import clone3
from runtime.spec import DeviceRule, Resources

MIB = 1 << 20
HIERARCHY = tree.detect()
VERSION = HIERARCHY.version
UNIFIED = "/sys/fs/cgroup" if VERSION == 2 else "/sys/fs/cgroup/unified"
numbers = itertools.count()


def limit(**resources: object) -> Limits:
    return limits(Resources(**resources), VERSION)  # type: ignore[arg-type]


def start(group: Cgroup, action: Callable[[], object]) -> tuple[int, int]:
    """Runs `action` in a new process in the cgroup: its pid, and a pipe that carries its answer."""
    read_end, write_end = os.pipe()
    fds, directory = group.attach_fds(), group.clone_fd()
    pid = os.fork() if directory is None else clone3(0, cgroup_fd=directory)[0]
    if pid == 0:
        try:
            for fd in fds:
                os.write(fd, b"0")
            os.write(write_end, str(action()).encode())
        except OSError as error:
            os.write(write_end, errno.errorcode[error.errno or 0].encode())
        finally:
            os._exit(0)
    for fd in (*fds, write_end, *([directory] if directory is not None else [])):
        os.close(fd)
    return pid, read_end


def run(group: Cgroup, action: Callable[[], object]) -> tuple[str, int]:
    """What `action` answered in the cgroup, and its wait status."""
    pid, read_end = start(group, action)
    with open(read_end) as pipe:
        answer = pipe.read()
    return answer, os.waitpid(pid, 0)[1]


def start_sleeper(group: Cgroup) -> int:
    """A process that has joined the cgroup for certain."""

    def sleep() -> None:
        os.write(1023, b"in")
        signal.pause()

    ready, told = os.pipe()
    os.dup2(told, 1023)
    os.close(told)
    pid, read_end = start(group, sleep)
    os.close(1023)
    os.close(read_end)
    assert os.read(ready, 2) == b"in"
    os.close(ready)
    return pid


def value(group: Cgroup, v1: str, v2: str) -> str:
    """v1: controller/file; v2: file."""
    if VERSION == 2:
        return files.read(f"{UNIFIED}{group.path}/{v2}")
    controller, _, file = v1.partition("/")
    return files.read(f"/sys/fs/cgroup/{controller}{group.path}/{file}")


def fresh_path() -> str:
    """A cgroup path that nobody else uses."""
    return f"/podwright-cgroup-test-{os.getpid()}-{next(numbers)}"


def open_device(major: int, minor: int) -> Callable[[], str]:
    """Making the node is always allowed; using it is what the rules are about."""
    path = f"/dev/podwright-cgroup-test-{os.getpid()}-{next(numbers)}"

    def use() -> str:
        os.mknod(path, 0o20600, os.makedev(major, minor))
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        finally:
            os.unlink(path)
        return "opened"

    return use


DENY = DeviceRule(allow=False)
KMSG = DeviceRule(allow=True, type="c", major=1, minor=11, access="r")
