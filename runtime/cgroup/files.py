"""Reading and writing the kernel's cgroup files, and emptying and removing directories of them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

from runtime.cgroup.errors import CgroupBusy, CgroupRefused
from runtime.cgroup.limits import Setting
from runtime.errors import InvalidSpec

MAX_NAME = 255
_KILL_PASSES = 1000  # each one kills all that the one before left; a fork bomb needs a few
_PATH_FIELD = "linux.cgroupsPath"


def checked_path(path: str) -> str:
    """A cgroup's absolute path without a trailing slash. Raises InvalidSpec."""
    parts = path.strip("/").split("/")
    if not path.startswith("/") or not parts[0]:
        raise InvalidSpec(_PATH_FIELD, f"{path!r} must be absolute and more than /")
    for part in parts:
        if part in ("", ".", "..") or "\n" in part or "\0" in part or len(part) > MAX_NAME:
            raise InvalidSpec(_PATH_FIELD, f"{path!r} has a part that no cgroup may have: {part!r}")
    return "/" + "/".join(parts)


def read(path: str) -> str:
    """The whole of a cgroup file, without the last newline."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return os.fsdecode(b"".join(chunks)).rstrip("\n")
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """One write(2) of the whole value, as the kernel wants it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, os.fsencode(value))
    finally:
        os.close(fd)


def write_lines(path: str, lines: list[str]) -> None:
    """One write(2) a line, with a single open."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for line in lines:
            try:
                os.write(fd, os.fsencode(line))
            except OSError as error:
                raise refused(path, line, error) from error
    finally:
        os.close(fd)


_NO_SUCH_FILE = "the kernel has no such file here: is the controller enabled (cat /proc/cgroups)?"


def refused(path: str, value: str, error: OSError, *, field: str = "") -> CgroupRefused:
    """The kernel's errno with the advice that goes with it."""
    number = error.errno or 0
    return CgroupRefused(path, value, number, field=field, remedy=_remedy(path, number))


def _remedy(path: str, number: int) -> str:
    directory, file = os.path.split(path)
    if number in (errno.EACCES, errno.EROFS) and not file.startswith("cpuset."):
        return "run as root, with a writable cgroup file system"
    if number == errno.ENOENT:
        gone = f"the cgroup {directory} is gone: who removed it? Start the container anew"
        return _NO_SUCH_FILE if os.path.isdir(directory) else gone
    if number == errno.ENOSPC and not file.startswith("cpuset."):
        return "too many cgroups; look for leftovers, and at cgroup.max.descendants"
    if number == errno.EBUSY and file.startswith("memory."):
        return "the processes there use more memory than that: stop some, or choose a higher limit"
    for prefixes, files, text in _PARENT_DECIDES:
        if file.startswith(prefixes):
            above = _values_of_parent(directory, files)
            return f"{text} (the parent has {above})" if above else text
    return "the kernel doesn't take this value"


# File prefixes, the parent's files to show, and what to say.
_PARENT_DECIDES = (
    (
        ("cpuset.",),
        ("cpuset.cpus", "cpuset.mems", "cpuset.cpus.effective", "cpuset.mems.effective"),
        "choose from what the parent cgroup has",
    ),
    (
        ("cpu.cfs_", "cpu.max"),
        ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"),
        "no more than the parent cgroup's share of time is possible",
    ),
    (("devices.",), ("devices.list",), "the parent cgroup must allow the device too"),
    (
        ("memory.",),
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        "the memory limit must not exceed the limit of memory and swap together",
    ),
)


def _values_of_parent(directory: str, files: tuple[str, ...]) -> str:
    parent = os.path.dirname(directory)
    values = []
    for file in files:
        with contextlib.suppress(OSError):
            values.append(f"{file} = {read(f'{parent}/{file}')!r}")
    return ", ".join(values)


def apply(directory: str, setting: Setting) -> str | None:
    """Writes one setting. Answers a note if it is optional and the kernel has no such file."""
    path = f"{directory}/{setting.file}"
    try:
        write(path, setting.value)
    except FileNotFoundError as error:
        if not setting.optional:
            raise refused(path, setting.value, error, field=setting.field) from error
        return f"{setting.field}: not limited, since the kernel has no {setting.file}"
    except OSError as error:
        raise refused(path, setting.value, error, field=setting.field) from error
    return None


def make(directory: str) -> bool:
    """Makes a cgroup and its parents. False: it was there already."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError as error:
        parent = os.path.dirname(directory)
        if parent == directory:
            raise refused(directory, "", error) from error
        make(parent)
        return make(directory)
    except OSError as error:
        raise refused(directory, "", error) from error
    return True


def tree(directory: str) -> Iterator[str]:
    """The cgroup and all beneath it, deepest first; what vanishes meanwhile is passed over."""
    try:
        # A cgroup's link count is 2 and one more for each cgroup in it: most need no listing.
        if os.stat(directory).st_nlink > 2:
            with os.scandir(directory) as entries:
                children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            for child in children:
                yield from tree(child)
    except FileNotFoundError:
        return
    yield directory


def pids(directory: str) -> list[int]:
    """Every process in the cgroup and beneath it; [] if there is no such cgroup.

    0 stands for a process that our pid namespace doesn't show.
    """
    result: list[int] = []
    for path in tree(directory):
        with contextlib.suppress(FileNotFoundError):
            result.extend(map(int, _members(path).split()))
    return result


def _members(directory: str) -> str:
    try:
        return read(f"{directory}/cgroup.procs")
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed between open and read
            return ""
        if error.errno != errno.EOPNOTSUPP:  # a threaded cgroup of v2 lists threads alone
            raise
    return read(f"{directory}/cgroup.threads")


def refuse_busy(directory: str) -> None:
    """CgroupBusy if a process lives in the cgroup or beneath."""
    listed = pids(directory)
    if listed:
        raise CgroupBusy(directory, tuple(listed), "already exists, and is in use")


def kill_listed(members: Callable[[], list[int]]) -> None:
    """SIGKILL to every process that `members` lists, until it lists no new one.

    A process with SIGKILL pending can't fork any more (copy_process gives up), so that each pass
    only meets children of processes which an earlier pass hadn't seen.
    """
    killed: set[int] = set()
    for _ in range(_KILL_PASSES):
        found = set(members()) - {0}
        if found <= killed:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


def remove(directory: str, *, deadline: float) -> None:
    """Removes the cgroup and all beneath it; nothing happens if there is none.

    Processes that are about to end are waited for until `deadline` (time.monotonic());
    then CgroupBusy names them.
    """
    while True:
        try:
            os.rmdir(directory)  # the usual case: no children, no processes
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise refused(directory, "", error) from error
        if not _remove_children(directory, deadline):
            _await_exit(directory, deadline)


def _remove_children(directory: str, deadline: float) -> bool:
    """True if there were any."""
    children = [path for path in tree(directory) if path != directory]
    for child in children:
        remove(child, deadline=deadline)
    return bool(children)


def _await_exit(directory: str, deadline: float) -> None:
    """Waits until one process of the cgroup has ended. Raises CgroupBusy at the deadline."""
    left = deadline - time.monotonic()
    listed = pids(directory)
    if left <= 0:
        raise CgroupBusy(directory, tuple(listed), "can't be removed while processes live in it")
    poll = select.poll()
    fds = []
    try:
        for pid in listed:
            with contextlib.suppress(OSError):  # gone, or not of our pid namespace
                fds.append(os.pidfd_open(pid))
                poll.register(fds[-1], select.POLLIN)
        # Without a process to wait for, the kernel is just letting go of the last one.
        poll.poll(min(left * 1000, 1000) if fds else 1)
    finally:
        for fd in fds:
            os.close(fd)
