"""Commands in a running container, and commands that can't be run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runtime.spec import Capabilities, User
from runtime.tests.init_support import Image, Outcome, spec

pytestmark = pytest.mark.root

FOREVER = ("sleep", "1000")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def executed(outcome: Outcome) -> list[str]:
    """The lines of the only exec's output."""
    assert outcome.failed == []
    (only,) = outcome.execs
    assert only["failed"] == []
    assert only["status"] == 0
    return str(only["stdout"]).splitlines()


def test_a_command_runs_in_the_containers_namespaces(image: Image) -> None:
    (image.lower / "marker").touch()
    script = "ls -d /marker; cat /proc/1/cmdline; for n in mnt cgroup pid net ipc uts; do "
    script += (
        "[ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n differs; done"
    )
    lines = executed(image.run(spec(*FOREVER), execs=(("sh", "-c", script),)))
    assert lines == ["/marker", "sleep\0001000\0"]


def test_a_command_is_who_the_container_is(image: Image) -> None:
    process = {
        "user": User(1000, 1000, additional_gids=(10,)),
        "no_new_privileges": True,
        "oom_score_adj": 500,
        "cwd": "/tmp",
    }
    script = "id -u; id -g; id -G; pwd; echo $HOME; cat /proc/self/oom_score_adj;"
    script += "grep -h -E 'Seccomp:|NoNewPrivs|Cap(Eff|Bnd)' /proc/self/status"
    allow = bytes.fromhex("060000000000ff7f")
    outcome = image.run(
        spec(*FOREVER, process=process), seccomp=allow, execs=(("sh", "-c", script),)
    )
    assert executed(outcome) == [
        "1000",
        "1000",
        "1000 10",
        "/tmp",
        "/home/bob",
        "500",
        "CapEff:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ]


def test_a_command_may_have_a_terminal(image: Image) -> None:
    outcome = image.run(
        spec(*FOREVER), execs=(("sh", "-c", "tty; ls /dev/pts"),), exec_terminal=True
    )
    assert executed(outcome) == ["/dev/pts/0", "0     ptmx"]


def test_no_descriptor_leaks_into_a_command(image: Image) -> None:
    outcome = image.run(
        spec(*FOREVER), execs=(("sh", "-c", "ls /proc/self/fd | wc -w"),), leak_fds=30
    )
    assert executed(outcome) == ["4"]  # 0, 1, 2 and the directory that ls reads


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("nothing",), 'the command "nothing" is in no directory of PATH (/bin)'),
        (("/bin/nothing",), '"/bin/nothing" is not in the image'),
        (("/no/x",), '"/no/x" is not in the image: it has no directory "/no"'),
        (("/etc",), '"/etc" is a directory'),
        (("/etc/passwd",), '"/etc/passwd" has no execute permission (mode 0644)'),
        (("plain",), '"/bin/plain" has no execute permission (mode 0644)'),
        (
            ("/script",),
            '"/script" needs the interpreter "/usr/bin/python9", which is not in the image',
        ),
        (("/text",), '"/text" is no program: neither ELF nor a script that begins with #!'),
        (("/dangling",), '"/dangling" is a symbolic link to "/absent", which is not in the image'),
        (
            ("/dynamic",),
            '"/dynamic" needs the interpreter "/lib64/ld-linux-x86-64.so.2", which is not',
        ),
        (("/arm",), '"/arm" is built for arm64; this node is x86_64'),
    ],
)
def test_what_is_missing_is_named(image: Image, command: tuple[str, ...], text: str) -> None:
    image.write("bin/plain", "")
    image.write("script", "#!/usr/bin/python9 -u\n", 0o755)
    image.write("text", "hello", 0o755)
    (image.lower / "dangling").symlink_to("/absent")
    shutil.copy("/usr/bin/env", image.lower / "dynamic")
    arm = bytearray((image.lower / "bin/busybox").read_bytes()[:4096])
    arm[18:20] = b"\xb7\0"
    (image.lower / "arm").write_bytes(arm)
    (image.lower / "arm").chmod(0o755)
    outcome = image.run(spec(*command))
    assert outcome.failure.startswith(f"exec: {text}")
    assert outcome.status == 127


def test_what_a_user_may_not_execute_is_told_with_mode_and_owner(image: Image) -> None:
    image.write("only-root", "#!/bin/sh\n", 0o700)
    process = {"user": User(1000, 1000), "capabilities": Capabilities()}
    outcome = image.run(spec("/only-root", process=process))
    assert outcome.failure == (
        'exec: "/only-root" may not be executed by uid 1000 (mode 0700, owner 0:0)'
    )


def test_an_empty_element_of_path_does_not_mean_here(image: Image) -> None:
    image.write("tmp/tool", "#!/bin/sh\necho here\n", 0o755)
    outcome = image.run(spec("tool", process={"cwd": "/tmp", "env": ("PATH=:/bin:",)}))
    assert "in no directory of PATH" in outcome.failure


def test_the_first_executable_in_path_counts(image: Image) -> None:
    image.write("a/tool", "not executable")
    image.write("b/tool", "#!/bin/sh\necho b\n", 0o755)
    outcome = image.run(spec("tool", process={"env": ("PATH=/absent:/a:/b:/bin",)}))
    assert outcome.lines == ["b"]


def test_the_environment_is_exact(image: Image) -> None:
    env = ("A=1", "EMPTY=", "PATH=/bin", "A=2", "HOME=/x", "WEIRD=a=b c")
    assert image.run(spec("env", process={"env": env})).lines == [
        "A=2",
        "EMPTY=",
        "PATH=/bin",
        "HOME=/x",
        "WEIRD=a=b c",
    ]
