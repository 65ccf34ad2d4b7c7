"""An image of Debian's static busybox, a spec such as CRI's, and a way to run both."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime import codec
from runtime.spec import Capabilities, Linux, Mount, Namespace, Process, Rootfs, Spec
from runtime.tests.init_driver import Request

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "sh cat chmod dd echo env grep head id kill ls mkdir mount ps pwd readlink setsid "
    "sleep stat stty test touch true tty umount wc"
)
SAFE = ("nosuid", "noexec", "nodev")
PROC = Mount("/proc", "proc", "proc", SAFE)
DEV = Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k"))
PTS = Mount(
    "/dev/pts",
    "devpts",
    "devpts",
    ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
)
MQUEUE = Mount("/dev/mqueue", "mqueue", "mqueue", SAFE)
SHM = Mount("/dev/shm", "tmpfs", "pod-shm", (*SAFE, "mode=1777"))
SYS = Mount("/sys", "sysfs", "sysfs", (*SAFE, "ro"))
CGROUP = Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*SAFE, "relatime", "ro"))
MOUNTS = (PROC, DEV, PTS, MQUEUE, SHM, SYS, CGROUP)
MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
NAMESPACES = tuple(Namespace(kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup"))


def bind(source: Path | str, destination: str, *options: str) -> Mount:
    """A bind mount as CRI's are: recursive, private unless options say otherwise."""
    return Mount(destination, "bind", str(source), ("rbind", "rprivate", *options))


def spec(*args: str, process: Mapping[str, object] = {}, **linux: object) -> Spec:
    """A container as CRI describes it; process and linux replace fields of theirs."""
    first = Process(
        args=args,
        env=("PATH=/bin",),
        capabilities=Capabilities(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES),
    )
    base = Linux(namespaces=NAMESPACES, masked_paths=MASKED, readonly_paths=READONLY)
    return Spec(
        process=dataclasses.replace(first, **process),  # type: ignore[arg-type]  # by name
        mounts=MOUNTS,
        linux=dataclasses.replace(base, **linux),  # type: ignore[arg-type]  # by name
    )


@dataclass(frozen=True)
class Outcome:
    """What the driver reports: see init_driver.Report."""

    failed: list[object]
    identity: list[object]
    warnings: list[str]
    stages: list[tuple[str, int, int]]
    stdout: str
    stderr: str
    status: int
    execs: list[dict[str, object]]
    micros: list[float]
    cpu: float
    faults: float

    @property
    def lines(self) -> list[str]:
        """Of the output; the container must have run, and run well."""
        assert self.failed == [], self.failed
        assert self.status == 0, self
        return self.stdout.splitlines()

    @property
    def failure(self) -> str:
        """`step: text` of a container that couldn't be started."""
        assert self.failed, self
        return f"{self.failed[0]}: {self.failed[2]}"


class Image:
    """A root file system: `lower` is what the image brings; each run gets a writable layer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lower = directory / "lower"
        binaries = self.lower / "bin"
        binaries.mkdir(parents=True)
        shutil.copy(BUSYBOX, binaries / "busybox")
        for applet in APPLETS.split():
            (binaries / applet).symlink_to("busybox")
        for name in ("dev", "etc", "proc", "sys", "tmp"):
            (self.lower / name).mkdir()
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:\n")
        self.write("etc/group", "root:x:0:\nbob:x:1000:\nwheel:x:10:root,bob\n")
        self._runs = 0

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.lower / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def rootfs(self) -> Rootfs:
        self._runs += 1
        upper, work = (self.directory / f"{kind}{self._runs}" for kind in ("upper", "work"))
        upper.mkdir()
        work.mkdir()
        return Rootfs((str(self.lower),), str(upper), str(work))

    @property
    def upper(self) -> Path:
        """The writable layer of the latest run."""
        return self.directory / f"upper{self._runs}"

    def run(self, wanted: Spec, **request: object) -> Outcome:
        """Runs the spec on this image; request: further fields of init_driver.Request."""
        if "rootfs" not in request:
            request["rootfs"] = self.rootfs()
        asked = Request(spec=wanted, **request)  # type: ignore[arg-type]  # by name
        done = subprocess.run(
            [sys.executable, "-I", "-m", "runtime.tests.init_driver"],
            input=json.dumps(codec.encode(asked)),
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env={"PATH": os.environ["PATH"], "SECRET": "of the node"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return Outcome(**json.loads(done.stdout))

    def sh(self, script: str, process: Mapping[str, object] = {}, **linux: object) -> Outcome:
        """A shell script in a container as CRI describes it."""
        return self.run(spec("sh", "-c", script, process=process, **linux))
