"""RuntimeDefault by capability, and users' profiles with errors that name the place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runtime.errors import InvalidSpec
from runtime.seccomp import default
from runtime.seccomp.machine import native_architectures
from runtime.seccomp.profile import default_profile, load, parse
from runtime.spec import Seccomp, SeccompArgument, SeccompSyscalls


def allowed(seccomp: Seccomp) -> set[str]:
    """Calls that are allowed whatever their arguments."""
    return {
        name
        for rule in seccomp.syscalls
        if rule.action == "SCMP_ACT_ALLOW" and not rule.args
        for name in rule.names
    }


def test_what_makes_or_breaks_a_machine_is_refused() -> None:
    plain = allowed(default_profile(()))
    assert plain.isdisjoint(
        {"mount", "bpf", "unshare", "setns", "reboot", "init_module", "kexec_load", "swapon",
         "keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup", "open_by_handle_at",
         "perf_event_open", "clone", "clone3", "socket", "personality", "chroot", "quotactl"}
    )  # fmt: skip


@pytest.mark.parametrize("capability", sorted(default.BY_CAPABILITY))
def test_a_capability_unlocks_its_calls_and_no_others(capability: str) -> None:
    unlocked = allowed(default_profile([capability])) - allowed(default_profile(()))
    always = {"ptrace", "process_vm_readv", "process_vm_writev"}
    assert unlocked == set(default.BY_CAPABILITY[capability].split()) - always


def test_capabilities_that_decide_nothing_share_one_profile() -> None:
    assert default_profile(["CAP_CHOWN"]) is default_profile(["CAP_KILL", "CAP_FOWNER"])


def test_namespace_flags_of_clone_need_the_administrator() -> None:
    rules = {rule.names: rule for rule in default_profile(()).syscalls}
    assert rules["clone3",].errno_ret == default.ENOSYS
    (condition,) = rules["clone",].args
    new_ns_flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert all(condition.value & flag for flag in new_ns_flags)
    assert condition.op == "SCMP_CMP_MASKED_EQ"
    assert condition.value_two == 0
    assert ("clone3",) not in {r.names for r in default_profile(["CAP_SYS_ADMIN"]).syscalls}


def write(path: Path, profile: object) -> Path:
    path.write_text(json.dumps(profile))
    return path


def test_a_file_of_the_oci_specification(tmp_path: Path) -> None:
    path = write(
        tmp_path / "profile.json",
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["socket"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 97,
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}],
                },
            ],
        },
    )
    assert load(path) == Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=38,
        architectures=("SCMP_ARCH_X86_64",),
        flags=("SECCOMP_FILTER_FLAG_LOG",),
        syscalls=(
            SeccompSyscalls(("read", "write"), "SCMP_ACT_ALLOW"),
            SeccompSyscalls(
                ("socket",),
                "SCMP_ACT_ERRNO",
                errno_ret=97,
                args=(SeccompArgument(0, 1, "SCMP_CMP_EQ", 2),),
            ),
        ),
    )


def docker(**rule: object) -> bytes:
    whole = {"names": ["read"], "action": "SCMP_ACT_ALLOW"} | rule
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [whole]}).encode()


@pytest.mark.parametrize(
    ("rule", "applies"),
    [
        ({}, True),
        ({"comment": "x", "args": None, "includes": {}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, True),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "99.0"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {"arches": ["none"]}}, False),
        ({"includes": {"arches": ["amd64", "arm64", "riscv64", "ppc64le", "s390x"]}}, True),
        ({"excludes": {"arches": ["amd64", "arm64", "riscv64", "ppc64le", "s390x"]}}, False),
    ],
)
def test_conditions_of_dockers_format(rule: dict[str, object], applies: bool) -> None:
    assert bool(parse(docker(**rule), "x", ["CAP_SYS_ADMIN"]).syscalls) == applies


def test_the_architectures_of_dockers_format() -> None:
    machine = tuple(architecture.name for architecture in native_architectures())
    content = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_MIPS64", "subArchitectures": ["SCMP_ARCH_MIPS"]},
            {"architecture": machine[0], "subArchitectures": list(machine[1:])},
        ],
    }
    assert parse(json.dumps(content).encode(), "x").architectures == machine


def test_one_name_as_docker_once_wrote_it() -> None:
    content = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "A"}]}
    assert parse(json.dumps(content).encode(), "x").syscalls[0].names == ("read",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "p.json: Expecting value"),
        (b"[" * 100_000, "p.json: "),
        (b"[]", "p.json: : expected object"),
        (b"{}", "p.json: defaultAction: missing"),
        (b"\xff", "p.json: "),
        (docker(names="read"), "p.json: syscalls[0].names: expected array"),
        (docker(names=[]), "p.json: syscalls[0].names: names must list"),
        (docker(names=["a"], name="b"), "p.json: syscalls[0].names: names must list"),
        (docker(action=1), "p.json: syscalls[0].action: expected str"),
        (docker(args=[{"index": 0, "op": "x"}]), "p.json: syscalls[0].args[0].value: missing"),
        (docker(includes={"minKernel": "new"}), "p.json: syscalls[0]: minKernel: 'new'"),
        (
            b'{"defaultAction": "A", "architectures": ["x"], "archMap": [{"architecture": "y"}]}',
            "p.json: archMap: give either",
        ),
    ],
)
def test_a_malformed_profile_is_refused_with_the_place(content: bytes, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(content, "p.json")
    assert str(caught.value).startswith(message)


def test_a_profile_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="No such file or directory: put the profile there"):
        load(tmp_path / "none.json")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidSpec, match="is no regular file"):
        load(tmp_path / "fifo")
    with pytest.raises(InvalidSpec, match=r"is no regular file|Is a directory"):
        load(tmp_path)
    (tmp_path / "large").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(InvalidSpec, match="larger than a profile may be"):
        load(tmp_path / "large")
