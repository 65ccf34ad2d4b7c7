"""Compiled profiles: what the kernel answers under them, and what they say of every number."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest

from runtime.errors import InvalidSpec
from runtime.linux.seccomp import NEW_LISTENER
from runtime.seccomp import default, machine
from runtime.seccomp.compile import install_flags, program
from runtime.seccomp.profile import default_profile
from runtime.spec import Seccomp, SeccompArgument, SeccompSyscalls
from runtime.tests.seccomp_driver import (
    ALLOW,
    ENOSYS,
    EPERM,
    KILL,
    X32_BIT,
    X86,
    X86_64,
    answers,
    system_call,
    verdict,
)

x86_64_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")


NATIVE = machine.native_architectures()[0]


def number(name: str) -> int:
    (only,) = machine.calls(name, NATIVE)
    return only.number


Call = tuple[str, tuple[int, ...]]


def call(name: str, *arguments: int) -> Call:
    return name, arguments


def under(profile: Seccomp, *calls: Call) -> list[str]:
    """What calls give under a profile; the child must survive them."""
    numbered = [(number(name), *arguments) for name, arguments in calls]
    result, status = answers(program(profile), numbered)
    assert status == 0
    return result


def one(*arguments: SeccompArgument) -> SeccompSyscalls:
    return SeccompSyscalls(("getpid",), "SCMP_ACT_ERRNO", 7, arguments)


def deny(*rules: SeccompSyscalls, **fields: object) -> Seccomp:
    return Seccomp("SCMP_ACT_ALLOW", syscalls=rules, **fields)  # type: ignore[arg-type]


NEWUSER = 0x10000000
AF_UNIX, AF_ALG, AF_VSOCK, AF_NETLINK = 1, 38, 40, 16


def test_the_kernel_refuses_what_a_container_must_not_do() -> None:
    calls = (
        call("mount", 0, 0, 0, 0, 0),
        call("umount2", 0, 0),
        call("unshare", NEWUSER),
        call("setns", 0, 0),
        call("keyctl", 0, 0),
        call("bpf", 0, 0, 0),
        call("open_by_handle_at", 0, 0, 0),
        call("io_uring_setup", 0, 0),
        call("userfaultfd", 0),
        call("clone", NEWUSER),
        call("socket", AF_ALG, 5, 0),
        call("socket", AF_VSOCK, 1, 0),
        call("socket", AF_ALG + (1 << 32), 5, 0),  # the kernel only reads the lower half
        call("socket", AF_VSOCK + (1 << 32), 1, 0),
        call("personality", 0x0400000),
        call("chroot", 0),
    )
    refused = under(default_profile(["CAP_CHOWN", "CAP_NET_RAW"]), *calls)
    assert refused == ["EPERM"] * len(calls)


def test_libc_is_told_to_fall_back_from_clone3() -> None:
    assert under(default_profile(()), call("clone3", 0, 0)) == ["ENOSYS"]


def test_the_kernel_does_what_a_container_may() -> None:
    calls = (
        call("getpid"),
        call("socket", AF_UNIX, 1, 0),
        call("socket", AF_NETLINK, 3, 0),
        call("personality", 0xFFFFFFFF),
        call("chroot", 0),
        call("fchmodat2", -100 & 0xFFFFFFFFFFFFFFFF, 0, 0, 0),
        call("statmount", 0, 0, 0, 0),
        call("mseal", 0, 0, 1),
        call("openat2", 0, 0, 0, 0),
    )
    unfiltered = [system_call(number(name), *arguments) for name, arguments in calls]
    assert unfiltered[:4] == ["ok"] * 4
    assert under(default_profile(["CAP_SYS_CHROOT"]), *calls) == unfiltered


def test_the_administrator_meets_the_kernels_own_answers() -> None:
    assert under(
        default_profile(["CAP_SYS_ADMIN"]),
        call("mount", 0, 0, 0, 0, 0),
        call("clone3", 0, 0),
        call("bpf", 99, 0, 0),
    ) == ["EFAULT", "EINVAL", "EINVAL"]


def test_calls_newer_than_the_profile_do_not_exist() -> None:
    newest = max(default.NEW_NUMBERS["removexattrat"], default.NEW_NUMBERS["mseal"])
    result, status = answers(program(default_profile(())), [(newest + 1,), (500,), (9999,)])
    assert (result, status) == (["ENOSYS"] * 3, 0)


def test_a_list_of_what_is_forbidden_leaves_new_calls_alone() -> None:
    profile = deny(SeccompSyscalls(("getppid",), "SCMP_ACT_ERRNO", errno_ret=errno.EDOM))
    assert under(profile, call("getppid"), call("getpid")) == ["EDOM", "ok"]
    assert verdict(program(profile), NATIVE.audit, 500) == ALLOW


def test_a_forbidden_call_that_libseccomp_does_not_know() -> None:
    argument = SeccompArgument(2, 5, "SCMP_CMP_EQ")
    names = ("statmount", "no_such_call")
    profile = deny(SeccompSyscalls(names, "SCMP_ACT_ERRNO", errno_ret=7, args=(argument,)))
    assert under(profile, call("statmount", 0, 0, 5, 0)) == ["E2BIG"]
    assert under(profile, call("statmount", 0, 0, 6, 0))[0] in ("EFAULT", "ENOSYS")


@pytest.mark.parametrize(
    ("action", "wait_signal"),
    [
        ("SCMP_ACT_KILL", signal.SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", signal.SIGSYS),
        ("SCMP_ACT_TRAP", signal.SIGSYS),
        ("SCMP_ACT_LOG", 0),
    ],
)
def test_actions_without_errno(action: str, wait_signal: int) -> None:
    code = program(deny(SeccompSyscalls(("getppid",), action)))
    _, status = answers(code, [(number("getppid"),)])
    assert status & 0x7F == wait_signal


def test_an_errno_is_eperm_unless_told_and_may_be_zero() -> None:
    assert under(
        deny(
            SeccompSyscalls(("getppid",), "SCMP_ACT_ERRNO"),
            SeccompSyscalls(("getuid",), "SCMP_ACT_ERRNO", errno_ret=0),
        ),
        call("getppid"),
        call("getuid"),
    ) == ["EPERM", "ok"]


BIG = 0x1_0000_0002


@pytest.mark.parametrize(
    ("op", "value", "second", "matching", "other"),
    [
        ("SCMP_CMP_EQ", BIG, 0, [BIG], [2, BIG + 1]),
        ("SCMP_CMP_NE", BIG, 0, [2, BIG + 1], [BIG]),
        ("SCMP_CMP_LT", BIG, 0, [0, BIG - 1, 0xFFFFFFFF], [BIG, BIG + 1, 0x2_0000_0000]),
        ("SCMP_CMP_LE", BIG, 0, [BIG, 3], [BIG + 1]),
        ("SCMP_CMP_GT", BIG, 0, [BIG + 1, 0x2_0000_0000], [BIG, 0xFFFFFFFF]),
        ("SCMP_CMP_GE", BIG, 0, [BIG, BIG + 1], [BIG - 1]),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x30, [0x30, 0x13F], [0, 0x130 ^ 0x10]),
    ],
)
def test_comparisons_of_arguments(
    op: str, value: int, second: int, matching: Sequence[int], other: Sequence[int]
) -> None:
    """getpid ignores its arguments, so that they serve to try rules on."""
    for index in (0, 5):
        rule = one(SeccompArgument(index, value, op, second))
        calls = [call("getpid", *[0] * index, argument) for argument in (*matching, *other)]
        expected = ["E2BIG"] * len(matching) + ["ok"] * len(other)
        assert under(deny(rule), *calls) == expected


def test_all_conditions_of_a_rule_must_hold_and_any_rule_may() -> None:
    first, second = SeccompArgument(0, 1, "SCMP_CMP_EQ"), SeccompArgument(1, 2, "SCMP_CMP_EQ")
    calls = [call("getpid", 1, 2), call("getpid", 1, 0), call("getpid", 0, 2)]
    assert under(deny(one(first, second)), *calls) == ["E2BIG", "ok", "ok"]
    assert under(deny(one(first), one(second)), *calls) == ["E2BIG"] * 3


@x86_64_only
def test_socket_families_are_looked_at_on_x86_too() -> None:
    code = program(default_profile(()))
    families = [AF_UNIX, AF_ALG, 39, AF_VSOCK, 41, 1 << 30]
    wanted = [ALLOW, EPERM, ALLOW, EPERM, ALLOW, ALLOW]
    assert [verdict(code, X86, 359, [family]) for family in families] == wanted
    assert [verdict(code, X86_64, 41, [family]) for family in families] == wanted
    assert [verdict(code, X86_64, 41 | X32_BIT, [family]) for family in families] == wanted


@x86_64_only
@pytest.mark.parametrize("capabilities", [(), ("CAP_SYS_ADMIN",), tuple(default.BY_CAPABILITY)])
@pytest.mark.parametrize("architecture", [machine.X86_64, machine.X32, machine.X86])
def test_every_number_gets_what_the_profile_says(
    capabilities: tuple[str, ...], architecture: machine.Architecture
) -> None:
    profile = default_profile(capabilities)
    code = program(profile)
    expected = {}
    for rule in profile.syscalls:
        action = ALLOW if rule.action == "SCMP_ACT_ALLOW" else ENOSYS
        for name in rule.names:
            for way in machine.calls(name, architecture):
                expected[way.number] = action  # with arguments of 0, all conditions hold
    newest = max(expected)
    for low in range(600):
        at = architecture.first + low
        wanted = expected.get(at, EPERM if at < newest else ENOSYS)
        assert verdict(code, architecture.audit, at) == wanted, f"system call {low}"
    assert verdict(code, architecture.audit, machine.SKIPPED) == EPERM  # a tracer's word
    assert verdict(code, machine.AARCH64.audit, 0) == KILL  # a machine the profile doesn't name


def test_a_profile_without_architectures_is_for_this_machine() -> None:
    profile = Seccomp("SCMP_ACT_ERRNO", syscalls=(SeccompSyscalls(("getpid",), "SCMP_ACT_ALLOW"),))
    code = program(profile)
    assert verdict(code, NATIVE.audit, number("getpid")) == ALLOW
    assert verdict(code, NATIVE.audit, number("getpid") - 1) == EPERM
    assert verdict(code, NATIVE.audit, number("getpid") + 1) == ENOSYS  # newer than the profile
    assert verdict(code, X86, 20) == KILL


def test_equal_profiles_are_compiled_once() -> None:
    first = program(default_profile(["CAP_NET_RAW"]))
    assert program(default_profile(["CAP_KILL"])) is first


def test_the_default_program_stays_short() -> None:
    """Its length is paid for at each start and exec."""
    assert len(program(default_profile(()))) < 800 * 8


def notify(*names: str, path: str = "") -> Seccomp:
    rule = SeccompSyscalls(names, "SCMP_ACT_NOTIFY")
    return Seccomp("SCMP_ACT_ALLOW", syscalls=(rule,), listener_path=path)


def test_who_is_to_be_told_has_a_listener() -> None:
    assert install_flags(notify("mkdir", path="/x")) == 4 | NEW_LISTENER
    tsync = replace(notify("mkdir", path="/x"), flags=("SECCOMP_FILTER_FLAG_TSYNC",))
    assert install_flags(tsync) == NEW_LISTENER
    assert install_flags(Seccomp("SCMP_ACT_ALLOW", listener_path="/x")) == 4  # nobody to be told


@pytest.mark.parametrize(
    ("profile", "place"),
    [
        (Seccomp("SCMP_ACT_MAYBE"), "defaultAction: 'SCMP_ACT_MAYBE'"),
        (Seccomp("SCMP_ACT_ALLOW", flags=("LOG",)), "flags: 'LOG' is none of"),
        (Seccomp("SCMP_ACT_NOTIFY"), "defaultAction: SCMP_ACT_NOTIFY for every call"),
        (notify("mkdir"), "listenerPath: '': SCMP_ACT_NOTIFY takes"),
        (notify("mkdir", path="here"), "listenerPath: 'here': SCMP_ACT_NOTIFY takes"),
        (notify("mkdir", "write", path="/x"), "syscalls: SCMP_ACT_NOTIFY for write"),
        (notify("read", path="/x"), "syscalls: SCMP_ACT_NOTIFY for read"),
        (Seccomp("SCMP_ACT_ERRNO", default_errno_ret=4096), "defaultAction: errno 4096"),
        (Seccomp("SCMP_ACT_ALLOW", architectures=("x86",)), "architectures: 'x86'"),
        (Seccomp("SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_Z80",)), "architectures: 'SCMP"),
        (deny(SeccompSyscalls(("read",), "ERRNO")), "syscalls[0].action: 'ERRNO'"),
        (
            deny(one(SeccompArgument(6, 0, "SCMP_CMP_EQ"))),
            "syscalls[0].args[0].index: 6",
        ),
        (
            deny(one(SeccompArgument(0, 0, "EQ"))),
            "syscalls[0].args[0].op: 'EQ'",
        ),
        (
            deny(one(SeccompArgument(0, 1 << 64, "SCMP_CMP_EQ"))),
            "syscalls[0].args[0].value: 18446744073709551616",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_named(profile: Seccomp, place: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        program(profile)
    assert str(caught.value).startswith(f"linux.seccomp.{place}")


def test_flags_for_installing() -> None:
    assert install_flags(Seccomp("SCMP_ACT_ALLOW")) == 4
    assert install_flags(Seccomp("SCMP_ACT_ALLOW", flags=("SECCOMP_FILTER_FLAG_LOG",))) == 2
    with pytest.raises(InvalidSpec, match="flags: 'SECCOMP_FILTER_FLAG_NEW'"):
        install_flags(Seccomp("SCMP_ACT_ALLOW", flags=("SECCOMP_FILTER_FLAG_NEW",)))
