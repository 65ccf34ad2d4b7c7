"""What can go wrong with a control group: the kernel refuses a value, or processes won't leave."""

from __future__ import annotations

import os

from runtime.errors import RuntimeFault


class CgroupRefused(RuntimeFault):
    """The kernel refused a directory or a value.

    field: the spec's field behind it, "" where there is none; file: what was written or made;
    value: what should have gone in; errno: the kernel's answer; remedy: what to do about it.
    """

    def __init__(self, file: str, value: str, errno: int, *, field: str = "", remedy: str) -> None:
        action = f"writing {value!r} to {file}" if value else f"making {file}"
        where = f"{field}: " if field else ""
        super().__init__(f"{where}{action}: {os.strerror(errno)}: {remedy}")
        self.field = field
        self.file = file
        self.value = value
        self.errno = errno
        self.remedy = remedy


class MemoryInUse(RuntimeFault):
    """A memory limit below what is in use: whoever set it would end processes.

    limit, used: bytes; used is without the page cache that the kernel gives back first.
    """

    def __init__(self, field: str, limit: int, used: int) -> None:
        super().__init__(
            f"{field}: {limit} bytes is less than the {used} bytes that the container's processes "
            "use now: choose a limit above that, or have them use less first"
        )
        self.field = field
        self.limit = limit
        self.used = used


class CgroupBusy(RuntimeFault):
    """Processes live in a cgroup that should be empty. pids: 0 for those of other namespaces."""

    def __init__(self, directory: str, pids: tuple[int, ...], text: str) -> None:
        visible = [str(pid) for pid in pids if pid]
        shown = ", ".join(visible[:10]) + (" …" if len(visible) > 10 else "")
        who = f"processes {shown}" if visible else "processes that our pid namespace doesn't show"
        super().__init__(f"{directory}: {text}: {who}")
        self.directory = directory
        self.pids = pids


class CgroupsUnusable(RuntimeFault):
    """This machine has no control groups that we could use; the text says what was looked for."""


class SystemdUnavailable(RuntimeFault):
    """systemd can't be reached, or has not answered in time; the text says which, and where."""


class SystemdSilent(SystemdUnavailable):
    """Somebody is there, but doesn't answer, or not to us."""


class SystemdRefused(RuntimeFault):
    """systemd would not do what was asked, or could not.

    unit: which; error: the D-Bus error's name, or how the job ended ("timeout", "failed" ...).
    """

    def __init__(self, unit: str, error: str, text: str) -> None:
        super().__init__(f"systemd, unit {unit}: {text or error}")
        self.unit = unit
        self.error = error
