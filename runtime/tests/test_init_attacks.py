"""What an image or a neighbour may try while init builds a container; each attack has happened.

The numbers are those of the CVEs in which some runtime fell for it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.spec import Capabilities, Mount, Process, User, UserLookup
from runtime.tests.init_support import (
    DEFAULT_CAPABILITIES,
    MOUNTS,
    SHM,
    Image,
    bind,
    spec,
)

pytestmark = pytest.mark.root


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the node, with a decoy."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "ptmx").write_text("decoy")
    return victim


def contents(directory: Path) -> list[tuple[str, str]]:
    return sorted((path.name, path.read_text()) for path in directory.iterdir())


@pytest.mark.parametrize("up", ["", "../../../../../../../.."])
def test_dev_as_a_link_leads_nowhere_outside(image: Image, victim: Path, up: str) -> None:
    """CVE-2026-41579, CVE-2026-47766."""
    (image.lower / "dev").rmdir()
    (image.lower / "dev").symlink_to(f"{up}{victim}")
    image.run(spec("true"))
    assert contents(victim) == [("ptmx", "decoy")]
    assert "dev" in os.listdir(image.lower)


def test_dev_as_a_link_leads_nowhere_outside_even_without_a_tmpfs(
    image: Image, victim: Path
) -> None:
    (image.lower / "dev").rmdir()
    (image.lower / "dev").symlink_to(victim)
    outcome = image.run(replace(spec("true"), mounts=()))
    assert outcome.failed == []
    assert contents(victim) == [("ptmx", "decoy")]


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["/tmp", "tmp", "/absent"])
def test_proc_and_sys_may_not_be_links(image: Image, name: str, target: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2025-62161."""
    (image.lower / name).rmdir()
    (image.lower / name).symlink_to(target)
    failure = image.run(spec("true")).failure
    assert failure.startswith(f"mounts: {name}")
    assert "something else than a directory" in failure or "File exists" in failure


def test_proc_and_sys_may_not_be_files(image: Image) -> None:
    (image.lower / "proc").rmdir()
    image.write("proc", "")
    assert "something else than a directory" in image.run(spec("true")).failure


def test_a_volume_that_leads_into_proc_is_refused(image: Image, tmp_path: Path) -> None:
    """CVE-2019-16884: what lies in /proc decides over labels and masks."""
    (tmp_path / "evil").mkdir()
    (image.lower / "data").symlink_to("/proc/self/attr")
    wanted = spec("true")
    mounts = (*MOUNTS, bind(tmp_path / "evil", "/data"))
    failure = image.run(replace(wanted, mounts=mounts)).failure
    assert failure.endswith("the destination leads into /proc")


def test_only_procfs_goes_to_proc(image: Image, tmp_path: Path) -> None:
    wanted = replace(spec("true"), mounts=(bind(tmp_path, "/proc"),))
    assert image.run(wanted).failure.endswith("only a procfs may be mounted at /proc")


def test_a_null_device_of_the_image_masks_nothing(image: Image) -> None:
    """CVE-2025-31133: /dev/null replaced by a link to what the attacker wants bound writable."""
    (image.lower / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    image.write("secret", "s")
    mounts = tuple(mount for mount in MOUNTS if not mount.destination.startswith("/dev"))
    wanted = replace(
        spec("sh", "-c", "cat /secret; stat -c %t:%T /secret", masked_paths=("/secret",)),
        mounts=mounts,
    )
    assert image.run(wanted).lines == ["1:3"]


def test_stdio_does_not_come_from_a_volumes_null(image: Image, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "null").write_text("no device")
    wanted = replace(spec("true"), mounts=(*MOUNTS[:1], bind(dev, "/dev")))
    failure = image.run(wanted, null_stdio=True).failure
    assert failure == "descriptors: /dev/null is not the null device"


def test_a_terminal_is_not_taken_from_the_images_dev_pts(image: Image) -> None:
    """CVE-2025-52565: a ptmx or console that is something else."""
    (image.lower / "dev/pts").mkdir()
    (image.lower / "dev/pts/ptmx").write_text("evil")
    (image.lower / "dev/console").symlink_to("/proc/sys/kernel/core_pattern")
    outcome = image.run(spec("tty", process={"terminal": True}))
    assert outcome.lines == ["/dev/pts/0"]
    with open("/proc/sys/kernel/core_pattern", "rb") as pattern:
        assert b"/dev/pts" not in pattern.read()


@pytest.mark.parametrize("number", [3, 4, 7, 20, 63])
def test_no_leaked_descriptor_is_a_way_out(image: Image, number: int) -> None:
    """CVE-2024-21626: a working directory of the node, through a descriptor left open."""
    wanted = spec("pwd", process={"cwd": f"/proc/self/fd/{number}"})
    outcome = image.run(wanted, leak_fds=60)
    assert outcome.failure.startswith(
        f'working directory: "/proc/self/fd/{number}" in the container'
    )


def test_a_command_through_a_leaked_descriptor_does_not_exist(image: Image) -> None:
    outcome = image.run(spec("/proc/self/fd/7/bin/busybox", "true"), leak_fds=60)
    assert outcome.failed[0] == "exec"


def test_the_runtimes_interpreter_can_not_be_overwritten(image: Image) -> None:
    """CVE-2019-5736: `#!/proc/self/exe` makes a runtime run itself inside of the container."""
    before = hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()
    image.write("evil", "#!/proc/self/exe\nimport os; os.system('echo pwned')\n", 0o755)
    outcome = image.run(spec("/evil"))
    assert "pwned" not in outcome.stdout
    image.run(spec("sh", "-c", "for i in 1 2 3 4 5 6; do : > /proc/$i/exe; done"))
    after = hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()
    assert after == before


def test_the_images_python_is_never_imported(image: Image, tmp_path: Path) -> None:
    """Nor its libraries (CVE-2019-14271), whatever goes wrong on the way."""
    evidence = "import os; os.write(2, b'EVIL'); open('/tmp/evil', 'w').close(); os._exit(66)\n"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    modules = "warnings traceback linecache tokenize pwd grp locale codecs encodings/__init__ "
    modules += "encodings/idna encodings/ascii enum signal json/__init__ struct ctypes/__init__"
    places = {f"usr/lib/{version}", str(Path(os.__file__).parent)[1:], os.getcwd()[1:]}
    for place in places:
        for module in modules.split():
            image.write(f"{place}/{module}.py", evidence)
    for library in ("libnss_files.so.2", "libgcc_s.so.1", "libc.so.6"):
        image.write(f"lib/x86_64-linux-gnu/{library}", "not ELF")
    missing = Mount("/x", "tmpfs", "tmpfs", ("bad=1",))
    base = spec("true")
    for wanted in (
        base,
        spec("/absent"),
        spec("true", process={"user_lookup": UserLookup("nobody-here")}),
        spec("true", process={"cwd": "/etc/passwd/x"}),
        spec("true", process={"user": User(4000000000, 4000000000)}),
        replace(base, mounts=(*MOUNTS, missing)),
        replace(base, mounts=(*MOUNTS, bind(tmp_path, "/etc/group"))),
    ):
        outcome = image.run(wanted)
        assert outcome.stderr == ""
        assert outcome.status in (0, 127)
        assert not (image.upper / "tmp/evil").exists()


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "huge", "link to a fifo"])
def test_evil_user_files_neither_block_nor_fill_memory(image: Image, name: str, kind: str) -> None:
    """CVE-2026-47262, CVE-2025-4437."""
    path = image.lower / "etc" / name
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero
        case "directory":
            path.mkdir()
        case "huge":
            path.touch()
            os.truncate(path, 2 << 30)
        case _:
            os.mkfifo(path.with_name("fifo"))
            path.symlink_to("fifo")
    outcome = image.sh("true", process={"user_lookup": UserLookup("root")})
    assert outcome.failed[0] == "identity"
    if name == "passwd":
        assert outcome.failure.startswith("identity: the image's /etc/passwd: ")


@pytest.mark.parametrize("uid", ["4294967296", "4294967295", "2147483648:4294967295", "-1", "0x0"])
def test_ids_never_wrap(image: Image, uid: str) -> None:
    """CVE-2024-40635, CVE-2026-30892."""
    outcome = image.sh("id -u", process={"user_lookup": UserLookup(uid)})
    assert outcome.failed[0] == "identity"
    image.write("etc/passwd", f"evil:x:{uid.split(':', maxsplit=1)[0]}:0::/:\n")
    if uid != "2147483648:4294967295":
        assert image.sh("id", process={"user_lookup": UserLookup("evil")}).failed[0] == "identity"


def test_user_files_are_the_images_not_the_nodes(image: Image) -> None:
    (image.lower / "etc/passwd").unlink()
    (image.lower / "etc/passwd").symlink_to("../../../../../../../../etc/passwd")
    (image.lower / "etc/group").unlink()
    outcome = image.sh("true", process={"user_lookup": UserLookup("daemon")})
    assert "identity" in outcome.failure  # the node has a daemon, the image a link to itself


def test_a_home_with_control_characters_is_not_used(image: Image) -> None:
    image.write("etc/passwd", "root:x:0:0::/root\x1b[31m:\n")
    assert image.sh("echo $HOME").lines == ["/"]


def test_inheritable_capabilities_are_empty(image: Image) -> None:
    """CVE-2022-24769."""
    outcome = image.sh("grep -h CapInh /proc/self/status")
    assert outcome.lines == ["CapInh:\t0000000000000000"]


def test_the_primary_group_is_among_the_groups(image: Image) -> None:
    """CVE-2022-36109: or a file closed to a group would be open to its members."""
    outcome = image.sh("id -G", process={"user": User(1000, 2000, additional_gids=(3000,))})
    assert outcome.lines == ["2000 3000"]


def test_nobody_in_the_container_can_look_at_a_process_on_its_way_in(image: Image) -> None:
    """CVE-2016-9962. Exec'ed processes are watched from inside while they join."""
    watcher = (
        "cd /proc; while :; do for p in [0-9]*; do [ $p != 1 ] && [ $p != $$ ] && "
        "for f in $p/fd/* $p/exe $p/cwd; do readlink $f >> /tmp/seen 2>/dev/null; done; done; done"
    )
    outcome = image.run(
        spec("sh", "-c", watcher, process={"capabilities": Capabilities()}),
        execs=(("true",),) * 8,
    )
    assert all(item["status"] == 0 for item in outcome.execs)
    seen = set((image.upper / "tmp/seen").read_text().split())
    inside = {"/", "/bin/busybox", "/dev/null", "/tmp/seen", "/proc"}
    assert {path for path in seen if not path.startswith("pipe:")} <= inside


RACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
directory = os.open(sys.argv[1], os.O_RDONLY)
while os.getppid() == int(sys.argv[2]):
    libc.renameat2(directory, b"real", directory, b"link", 2)  # RENAME_EXCHANGE
"""


def test_a_link_swapped_on_a_shared_volume_never_leads_to_the_node(
    image: Image, tmp_path: Path, victim: Path
) -> None:
    """CVE-2021-30465, CVE-2018-15664, CVE-2024-45310: a neighbour exchanges the mount point."""
    shared = tmp_path / "shared"
    (shared / "real").mkdir(parents=True)
    (shared / "link").symlink_to(f"/../../../../../../..{victim}")
    payload = tmp_path / "payload"
    payload.mkdir()
    wanted = replace(
        spec("true"),
        mounts=(
            *MOUNTS,
            bind(shared, "/shared", "rw"),
            bind(payload, "/shared/real/deep/in", "rw"),
            replace(SHM, destination="/shared/link/deep"),
        ),
    )
    before = Path("/proc/self/mountinfo").read_text()
    racer = subprocess.Popen([sys.executable, "-I", "-c", RACER, str(shared), str(os.getpid())])
    try:
        for _ in range(12):
            image.run(wanted)
            assert contents(victim) == [("ptmx", "decoy")]
    finally:
        racer.kill()
        racer.wait()
    assert Path("/proc/self/mountinfo").read_text() == before


def test_an_absolute_source_of_capabilities_is_the_plan_alone() -> None:
    assert Process(args=("x",)).capabilities == Capabilities()
    assert "CAP_SYS_ADMIN" not in DEFAULT_CAPABILITIES
