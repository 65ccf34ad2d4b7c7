"""Where a bench run happens: namespaces and a file system of its own, gone when it ends.

    outer process                 makes DIR, runs `unshare`; then removes DIR, looks for leftovers
    └─ pid 1 of the namespaces    reaps orphans (containerd's shims, say); its end kills the rest
       └─ the bench               private DIR, /run and /var/lib; a network with loopback alone

DIR is a tmpfs that holds an ext4 image mounted at DIR/disk: real `fsync` and real block allocation
without the noise of the machine's disk. Only cgroups can outlive these namespaces.
"""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from e2e.bench import accounting

INTERRUPTED = 130  # as a shell says it
DISK_BYTES = 8 << 30
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def enter(arguments: Sequence[str]) -> int:
    """Run this program again in fresh namespaces, then clean up; its exit code, 1 for a leak."""
    if os.geteuid() != 0:
        sys.exit("e2e.bench: must be root: it starts container runtimes and mounts file systems")
    directory = Path(tempfile.mkdtemp(prefix="podwright-bench-"))
    try:
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["--propagation", "private", sys.executable, "-m", "e2e.bench"]
        code = subprocess.call([*command, "--stage", str(directory), *arguments])
    except KeyboardInterrupt:
        code = INTERRUPTED  # with unshare, everything that it started has been killed
    finally:
        directory.rmdir()
        leaks = accounting.remove_groups(group_prefix(directory))
    if code:
        return code  # the pods were killed in the middle of their lives: nobody leaked anything
    for leak in leaks:
        sys.stderr.write(f"leaked: {leak}\n")
    return int(bool(leaks))


def group_prefix(directory: Path) -> str:
    """The cgroup beneath which everything of this run lives, such as /podwright-bench-x1y2z3."""
    return "/" + directory.name


def run_as_init(main: Callable[[], int]) -> int:
    """Be pid 1: run `main` in a child, reap every orphan, answer the child's exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                sys.stderr.write(stop.code + "\n")
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:  # noqa: BLE001 - said here: nothing above this frame may run
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the child has it too, and cleans up
            pid, status = os.wait()
            if pid == child:
                return os.waitstatus_to_exitcode(status) & 0xFF


def furnish(directory: Path) -> Path:
    """Mount the run's own file systems and bring loopback up; answers the disk's mount point."""
    for target in (directory, Path("/run"), Path("/var/lib")):
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "podwright-bench", str(target))
    image, disk = directory / "disk.img", directory / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(disk))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(link, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    return disk


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
