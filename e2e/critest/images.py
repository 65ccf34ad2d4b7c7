"""The images that the suite asks for, made of one static busybox and three small C programs.

They are pushed under the paths that the suite uses (e2e-test-images/busybox:1.29-2 and so on,
without the host); a mirror for every registry leads the daemon there. What is named by the digest
of somebody's public image can't be made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from e2e import images
from e2e.images import Entry, Image, Layer, directory, hardlink

HERE = Path(__file__).parent
NAMED = "PODWRIGHT_CRITEST_BUSYBOX"
"""Names a static busybox that is fuller than Debian's."""

E2E = "e2e-test-images"
TOOLS = "k8s-staging-cri-tools"
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
SHELL = {"Env": ENV, "Cmd": ["sh"]}

APPLETS_THAT_DEBIAN_LEAVES_OUT = {
    "pgrep": """#!/bin/sh
found=1
for process in /proc/[0-9]*; do
    read -r name 2>/dev/null <"$process/comm" || continue
    case "$name" in *"$1"*) echo "${process#/proc/}"; found=0 ;; esac
done
exit $found
""",
    "ipcs": "#!/bin/sh\ncat /proc/sysvipc/shm\n",
}
PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n"


def busybox() -> Path:
    """The busybox of which the images are made."""
    return Path(os.environ.get(NAMED) or images.BUSYBOX)


def runs_applets_without_exec(program: Path) -> bool:
    """Whether its shell runs `ls` itself and never looks at /bin/ls: some builds do."""
    empty = {"PATH": "/nonexistent"}
    words = [str(program), "sh", "-c", "ls /"]
    return subprocess.run(words, env=empty, capture_output=True, check=False).returncode == 0


def missing() -> str:
    """What stands in the way of making the images, and the remedy; "" if nothing does."""
    if not busybox().exists():
        return f"{busybox()} is missing: apt-get install busybox-static, or name one by {NAMED}"
    if shutil.which("gcc") is None:
        return "gcc is missing, its images hold C programs: apt-get install gcc libc6-dev"
    return ""


def push(registry: images.Registry) -> None:
    """Makes all of them and pushes them."""
    base = Layer.of(_files(busybox()))
    _workloads(registry, base)
    _users(registry, base)

    def marked(mark: str) -> Image:
        return Image([base, Layer.of([Entry(mark)])], SHELL)

    for name in ("1", "2", "3", "latest", "digest"):
        marked(name).push(registry, f"{TOOLS}/test-image-{name}", "latest")
    for tag in ("1", "2", "3"):
        marked("same").push(registry, f"{TOOLS}/test-image-tags", tag)
    for tag in ("test", "all"):
        marked(tag).push(registry, f"{TOOLS}/test-image-tag", tag)


def _workloads(registry: images.Registry, base: Layer) -> None:
    """A shell, a program that waits, web servers, and one that tells its user."""
    Image([base], SHELL).push(registry, f"{E2E}/busybox", "1.29-2")
    pause = Layer.of([_program("pause", "pause")])
    Image([pause], {"Entrypoint": ["/pause"], "User": "65535:65535"}).push(registry, "pause", "3.9")
    master = "nginx: master process nginx"
    for repository, tag, name, port, title in (
        (f"{E2E}/nginx", "1.14-2", "nginx", 80, master),
        (f"{E2E}/httpd", "2.4.39-4", "httpd", 80, "httpd"),
        (f"{TOOLS}/hostnet-nginx-{images.architecture()}", "latest", "nginx", 12003, master),
    ):
        web = Layer.of([_program("web", f"bin/{name}")])
        command = [f"/bin/{name}", str(port), title, f"/var/run/{name}.pid"]
        config = {"Env": ENV, "ExposedPorts": {f"{port}/tcp": {}}, "Cmd": command}
        Image([base, web], config).push(registry, repository, tag)
    gains = Layer.of([replace(_program("effective", "effective"), mode=0o4755)])
    config = {"Env": ENV, "Cmd": ["/effective"]}
    Image([base, gains], config).push(registry, f"{E2E}/nonewprivs", "1.3")


def _users(registry: images.Registry, base: Layer) -> None:
    """Images that name a user in each of the ways, and one whose user has groups of its own."""
    for name, user in (
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ):
        image = Image([base], {**SHELL, "User": user})
        image.push(registry, f"{TOOLS}/test-image-user-{name}", "latest")
    passwd = PASSWD + "default-user:x:1000:1000::/home/default-user:/bin/sh\n"
    group = GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
    known = Layer.of([Entry("etc/passwd", passwd.encode()), Entry("etc/group", group.encode())])
    image = Image([base, known], {**SHELL, "User": "1000"})
    image.push(registry, f"{TOOLS}/test-image-predefined-group", "latest")


def _files(program: Path) -> list[Entry]:
    """A root file system of busybox. Hard links: a masked /bin/ls leaves /bin/sh alone."""
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    applets = set(listed.stdout.split()) - {"busybox"}
    scripts = {k: v for k, v in APPLETS_THAT_DEBIAN_LEAVES_OUT.items() if k not in applets}
    places = ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "var", "var/run")
    return [
        *map(directory, places),
        directory("tmp", 0o1777),
        Entry("bin/busybox", program.read_bytes(), 0o755),
        *(hardlink(f"bin/{name}", "bin/busybox") for name in sorted(applets)),
        *(Entry(f"bin/{name}", text.encode(), 0o755) for name, text in scripts.items()),
        Entry("etc/passwd", PASSWD.encode()),
        Entry("etc/group", GROUP.encode()),
        Entry("etc/shadow", b"root:*::0:::::\n", 0o600),
    ]


def _program(source: str, path: str) -> Entry:
    """One of the C programs beside this file, linked statically."""
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, source)
        words = ["gcc", "-static", "-Os", "-s", "-o", str(program), str(HERE / f"{source}.c")]
        subprocess.run(words, check=True)
        return Entry(path, program.read_bytes(), 0o755)
