"""The last steps: descriptors, working directory, execve."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import termios

from runtime.init import devices, diagnosis
from runtime.init.context import Context
from runtime.linux import resolve
from runtime.linux.process import close_from

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHANNEL = 3
_DIRECTORY = resolve.O_PATH | os.O_DIRECTORY


def make_working_directory(context: Context) -> None:
    """Opens the working directory, making it if the image has none such."""
    cwd = context.process.cwd
    try:
        context.cwd_fd = resolve.mkdir_all_in_root(context.root_fd, os.fsencode(cwd))
    except OSError as error:
        raise OSError(error.errno, f'"{cwd}" in the container') from None


def open_container_root(context: Context) -> None:
    """For an exec'ed process, which is in the container's mount namespace already."""
    context.root_fd = os.open(b"/", _DIRECTORY)


def open_working_directory(context: Context) -> None:
    cwd = context.process.cwd
    try:
        context.cwd_fd = resolve.open_in_root(context.root_fd, os.fsencode(cwd), _DIRECTORY)
    except OSError as error:
        raise OSError(error.errno, f'"{cwd}" in the container') from None


def enter_working_directory(context: Context) -> None:
    """And looks where that is: nowhere outside of the root (CVE-2024-21626)."""
    os.fchdir(context.cwd_fd)
    if not os.getcwdb().startswith(b"/"):
        raise OSError(errno.EXDEV, f'"{context.process.cwd}" lies outside of the container')


def arrange_descriptors(context: Context) -> None:
    """0, 1, 2 are the process's; 3 is the channel; everything else is closed, really closed.

    But for the user namespace, which then is 4, and is closed when it has been joined.
    """
    wanted = _stdio(context)
    for number, fd in enumerate(wanted):
        os.dup2(fd, number)
    user_map = context.process.user_map
    uid = context.identity.uid + (user_map.uid if user_map else 0)
    if uid != 0:
        _own_stdio(uid)
    first = _CHANNEL + 1
    kept = context.user_ns_fd
    if kept >= 0:
        kept = fcntl.fcntl(kept, fcntl.F_DUPFD_CLOEXEC, first + 1)
    context.report.settle(_CHANNEL)
    if kept >= 0:
        os.dup2(kept, first, inheritable=False)
        context.user_ns_fd, first = first, first + 1
    close_from(first)


def take_terminal(context: Context) -> None:
    """It becomes that of our session."""
    if context.process.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _stdio(context: Context) -> list[int]:
    """Three descriptors, all above 2, so that none is overwritten before it is copied."""
    if context.console_fd >= 0:
        return [_above_stdio(context.console_fd)] * 3
    given = context.surroundings.stdio
    null = devices.open_null(context) if -1 in given else -1
    return [_above_stdio(null if fd < 0 else fd) for fd in given]


def _above_stdio(fd: int) -> int:
    return fd if fd > 2 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _CHANNEL + 1)


def _own_stdio(uid: int) -> None:
    """So that /dev/stdout can be opened again by who is not root. Not possible everywhere."""
    for fd in range(3):
        found = os.fstat(fd)
        if found.st_uid == uid or (stat.S_ISCHR(found.st_mode) and not os.isatty(fd)):
            continue
        try:
            os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EROFS, errno.EINVAL):
                raise


def tell_ready(context: Context) -> None:
    context.report.ready(context.identity, context.stages, context.warnings)


def execute(context: Context) -> None:
    """Becomes the process, or says why not. Does not return normally."""
    args, env, candidates = search(context)
    name = args[0]
    refusal: tuple[bytes, OSError] | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, args, env)  # noqa: S606 - the purpose of all this
        except OSError as error:
            is_absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
            if b"/" in name or not is_absent or os.access(candidate, os.F_OK):
                refusal = refusal or (candidate, error)
            if not is_absent and error.errno != errno.EACCES:
                break
    if refusal is None:
        path = os.fsdecode(env.get(b"PATH", DEFAULT_PATH))
        text = f'the command "{context.process.args[0]}" is in no directory of PATH ({path})'
        raise OSError(errno.ENOENT, text)
    raise diagnosis.explained(*refusal)


def search(context: Context) -> tuple[list[bytes], dict[bytes, bytes], list[bytes]]:
    """Arguments, environment, and the paths that the command may mean, in the order of PATH."""
    args = [_encoded(argument) for argument in context.process.args]
    env = _environment(context)
    return args, env, _candidates(args[0], env.get(b"PATH", DEFAULT_PATH))


def _environment(context: Context) -> dict[bytes, bytes]:
    env: dict[bytes, bytes] = {}
    for item in context.process.env:
        name, _, value = _encoded(item).partition(b"=")
        env[name] = value
    if not env.get(b"HOME"):
        env[b"HOME"] = (context.identity.home or "/").encode()
    return env


def _encoded(text: str) -> bytes:
    """Bytes that are not UTF-8 travel as surrogates, as in os.fsencode, whatever our locale is."""
    return text.encode("utf-8", "surrogateescape")


def _candidates(name: bytes, path: bytes) -> list[bytes]:
    """What a command may mean. An empty element of PATH is no "here", as it is for a shell."""
    if b"/" in name or not name:
        return [name]
    return [directory.rstrip(b"/") + b"/" + name for directory in path.split(b":") if directory]
