"""What a container finds around it. Every test starts a real one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.init.capabilities import NAMES
from runtime.spec import (
    Capabilities,
    ConsoleSize,
    Device,
    Mount,
    Namespace,
    Rlimit,
    Root,
    User,
    UserLookup,
)
from runtime.tests.init_support import DEV, NAMESPACES, PROC, Image, spec

pytestmark = pytest.mark.root

UNIFIED = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_a_container_is_process_1_on_its_image(image: Image) -> None:
    outcome = image.sh("echo $$; ls /; id -u")
    assert outcome.lines == ["1", "bin", "dev", "etc", "proc", "sys", "tmp", "0"]
    assert outcome.identity == [0, 0, [0], "/root"]


def test_the_stages_cover_the_way_to_exec(image: Image) -> None:
    stages = image.sh("true").stages
    names = [name for name, _, _ in stages]
    assert names[0] == "plan"
    assert names[-1] == "monitor"
    ends = [start + duration for _, start, duration in stages]
    assert ends[:-1] == [start for _, start, _ in stages[1:]]


def test_nothing_of_the_node_is_inherited(image: Image) -> None:
    outcome = image.run(
        spec("sh", "-c", "env; ls /proc/self/fd | wc -l; cat /proc/self/status; umask"),
        leak_fds=40,
    )
    lines = outcome.lines
    assert "SECRET=of the node" not in lines
    assert {"PATH=/bin", "HOME=/root"} <= set(lines)
    assert "3" in lines or "4" in lines  # 0, 1, 2 and the directory that ls reads
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) == 0  # Python ignores SIGPIPE, and execve would keep that
    assert int(status["CapInh"], 16) == 0
    assert int(status["CapAmb"], 16) == 0
    assert lines[-1] == "0022"


def test_dev_has_the_default_nodes_and_links(image: Image) -> None:
    outcome = image.sh(
        "cd /dev; stat -c '%n %F %t:%T %a' null zero full tty; readlink fd; readlink ptmx"
    )
    assert outcome.lines == [
        "null character special file 1:3 666",
        "zero character special file 1:5 666",
        "full character special file 1:7 666",
        "tty character special file 5:0 666",
        "/proc/self/fd",
        "pts/ptmx",
    ]


def test_devices_of_the_spec_are_made_with_mode_and_owner(image: Image) -> None:
    devices = (
        Device("/dev/net/tun", "c", 10, 200, 0o640, 0, 5),
        Device("/dev/null", "c", 1, 3, 0o600),
        Device("/opt/pipe", "p", file_mode=0o622),
    )
    script = "stat -c '%n %t:%T %a %g' /dev/net/tun /dev/null; test -p /opt/pipe; echo $?"
    assert image.sh(script, devices=devices).lines == [
        "/dev/net/tun a:c8 640 5",
        "/dev/null 1:3 600 0",
        "0",
    ]


def test_a_missing_working_directory_is_made_even_under_a_read_only_root(image: Image) -> None:
    wanted = spec("pwd", process={"cwd": "/srv/a/b"})
    assert image.run(replace(wanted, root=Root(readonly=True))).lines == ["/srv/a/b"]


def test_limits_and_oom_score_are_set(image: Image) -> None:
    outcome = image.sh(
        "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; umask",
        process={
            "rlimits": (Rlimit("RLIMIT_NOFILE", 100, 200),),
            "oom_score_adj": 777,
            "user": User(umask=0o077),
        },
    )
    assert outcome.lines == ["100", "200", "777", "0077"]


def test_a_limit_above_ours_is_refused_with_both_numbers(image: Image) -> None:
    limit = Rlimit("RLIMIT_NOFILE", 2**40, 2**40)  # above the kernel's own maximum, even for root
    failure = image.sh("true", process={"rlimits": (limit,)}).failure
    assert failure.startswith("limits: RLIMIT_NOFILE: hard limit 1099511627776 is above")


def test_capabilities_are_exactly_those_of_the_plan(image: Image) -> None:
    chown = ("CAP_CHOWN",)
    outcome = image.sh(
        "grep -h Cap /proc/self/status",
        process={"capabilities": Capabilities(("CAP_CHOWN", "CAP_KILL"), chown, chown)},
    )
    values = {key: int(value, 16) for key, value in (line.split() for line in outcome.lines)}
    # A root process regains the whole bounding set at execve; that is what the set is for.
    assert values == {"CapInh:": 0, "CapPrm:": 33, "CapEff:": 33, "CapBnd:": 33, "CapAmb:": 0}


def test_ambient_capabilities_survive_for_a_user(image: Image) -> None:
    net = ("CAP_NET_BIND_SERVICE",)
    outcome = image.sh(
        "id -u; grep -h CapEff /proc/self/status",
        process={"user": User(1000, 1000), "capabilities": Capabilities(net, net, net, net, net)},
    )
    assert outcome.lines == ["1000", "CapEff:\t0000000000000400"]


def test_what_we_have_not_got_is_left_out_with_a_warning(image: Image) -> None:
    with open("/proc/self/status", encoding="ascii") as status:
        ours = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm"))
    if ours >> 24 & 1:
        pytest.skip("this machine has CAP_SYS_RESOURCE")
    wanted = ("CAP_CHOWN", "CAP_SYS_RESOURCE")
    outcome = image.sh(
        "true",
        process={"capabilities": Capabilities(wanted, wanted, wanted), "oom_score_adj": -999},
    )
    assert outcome.failed == []
    assert any("without CAP_SYS_RESOURCE" in warning for warning in outcome.warnings)


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_seccomp_program_is_in_force(image: Image, uid: int, no_new_privileges: bool) -> None:
    # ld [0] (the number); jeq mkdir -> errno EDOM; allow
    program = bytes.fromhex("200000000000000015000001530000000600000021000500")
    program += bytes.fromhex("060000000000ff7f")
    outcome = image.run(
        spec(
            "sh",
            "-c",
            "grep -h -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mkdir /tmp/x",
            process={"no_new_privileges": no_new_privileges, "user": User(uid, uid)},
        ),
        seccomp=program,
    )
    assert outcome.stdout.split() == ["NoNewPrivs:", str(int(no_new_privileges)), "Seccomp:", "2"]
    assert "domain" in outcome.stderr


def test_without_no_new_privileges_admin_is_gone_after_the_filter(image: Image) -> None:
    allow = bytes.fromhex("060000000000ff7f")
    outcome = image.run(
        spec("grep", "-h", "Cap[PE]", "/proc/self/status", process={"user": User(1000, 1000)}),
        seccomp=allow,
    )
    assert outcome.lines == ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"]


def test_a_user_is_looked_up_in_the_image(image: Image) -> None:
    outcome = image.sh(
        "id -u; id -g; id -G; echo $HOME",
        process={"user_lookup": UserLookup("bob", supplemental=(77,))},
    )
    assert outcome.lines == ["1000", "1000", "1000 10 77", "/home/bob"]
    assert outcome.identity == [1000, 1000, [1000, 77, 10], "/home/bob"]


def test_an_unknown_user_is_named(image: Image) -> None:
    outcome = image.sh("true", process={"user_lookup": UserLookup("eve")})
    assert outcome.failure == 'identity: user "eve" not found in the image\'s /etc/passwd'


def test_output_can_be_opened_again_by_a_user(image: Image) -> None:
    outcome = image.sh("echo hi > /dev/stdout", process={"user": User(1000, 1000)})
    assert outcome.lines == ["hi"]


def test_without_stdio_there_is_the_containers_null(image: Image) -> None:
    script = "readlink /proc/self/fd/0 > /tmp/0; stat -L -c %t:%T /proc/self/fd/1 > /tmp/1"
    outcome = image.run(spec("sh", "-c", script), null_stdio=True)
    assert outcome.status == 0
    assert (image.upper / "tmp/0").read_text() == "/dev/null\n"


def test_stdin_arrives(image: Image) -> None:
    assert image.run(spec("cat"), stdin="hello").lines == ["hello"]


def test_a_terminal_is_the_controlling_one_and_dev_console(image: Image) -> None:
    wanted = spec(
        "sh",
        "-c",
        "tty; stty size; stat -c %t:%T /dev/console; echo hi > /dev/console; echo $-",
        process={"terminal": True, "console_size": ConsoleSize(height=33, width=99)},
    )
    outcome = image.run(wanted)
    assert outcome.lines[:4] == ["/dev/pts/0", "33 99", "88:0", "hi"]


def test_a_shared_pid_namespace_is_not_left(image: Image) -> None:
    outcome = image.run(spec("sh", "-c", "test $$ -gt 1"), own_pid_namespace=False)
    assert outcome.status == 0


def test_a_privileged_container_has_no_masks_and_may_mount(image: Image) -> None:
    wanted = spec(
        "sh",
        "-c",
        "mount -t tmpfs x /tmp && grep -c ' /tmp ' /proc/mounts; test -w /sys; echo $?",
        process={"capabilities": Capabilities(NAMES, NAMES, NAMES)},
        masked_paths=(),
        readonly_paths=(),
        namespaces=tuple(item for item in NAMESPACES if item.type != "cgroup"),
        devices=(Device("/dev/kmsg", "c", 1, 11),),
    )
    mounts = (PROC, DEV, Mount("/sys", "sysfs", "sysfs", ("nosuid",)))
    outcome = image.run(replace(wanted, mounts=mounts))
    assert outcome.stderr == ""
    assert outcome.lines == ["1", "0"]


def test_the_cgroup_is_joined_before_the_process_runs(image: Image) -> None:
    base = Path("/sys/fs/cgroup/pids")
    if not (base / "tasks").exists():
        pytest.skip("no cgroup v1 here")
    cgroup = base / f"podwright-test-{os.getpid()}"
    cgroup.mkdir()
    try:
        (cgroup / "pids.max").write_text("50")
        outcome = image.run(
            spec("sh", "-c", "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/pids.max"),
            tasks=(str(cgroup / "tasks"),),
        )
        assert outcome.lines[-1] == "50"
        assert any(line.endswith(":pids:/") for line in outcome.lines)
    finally:
        cgroup.rmdir()


def test_namespaces_without_cgroup_keep_the_nodes_view(image: Image) -> None:
    namespaces = tuple(Namespace(kind) for kind in ("pid", "mount"))
    outcome = image.sh("readlink /proc/self/ns/cgroup", namespaces=namespaces)
    assert outcome.lines == [os.readlink("/proc/self/ns/cgroup")]


def test_the_death_of_the_monitor_ends_the_container(image: Image) -> None:
    script = "echo started; exec sleep 1000"
    outcome = image.run(spec("sh", "-c", script), monitor_dies=True)
    assert outcome.stdout == "started\n"
    assert outcome.status == -9


def test_on_cgroup_v2_the_process_is_born_in_its_cgroup(image: Image) -> None:
    base = next((path for path in UNIFIED if (path / "cgroup.procs").exists()), None)
    if base is None:
        pytest.skip("no cgroup v2 here")
    cgroup = base / f"podwright-test-{os.getpid()}"
    (cgroup / "below").mkdir(parents=True)
    try:
        script = "grep ^0: /proc/self/cgroup; ls -d /sys/fs/cgroup/*; mkdir /sys/fs/cgroup/x"
        outcome = image.run(spec("sh", "-c", script), unified=str(cgroup))
        assert "0::/" in outcome.stdout.splitlines()
        assert "/sys/fs/cgroup/below" in outcome.stdout.splitlines()
        assert "Read-only file system" in outcome.stderr
    finally:
        (cgroup / "below").rmdir()
        cgroup.rmdir()
