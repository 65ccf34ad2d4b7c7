"""Our generator against libseccomp's on profiles that nobody thought of, and where they differ."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runtime.seccomp import machine
from runtime.seccomp.compile import program
from runtime.spec import Seccomp, SeccompArgument, SeccompSyscalls
from runtime.tests.seccomp_driver import ALLOW, KILL, verdict
from runtime.tests.seccomp_oracle import oracle

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")

ALL = tuple(architecture.name for architecture in machine.MACHINES["x86_64"])
ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_ERRNO": 0x00050001,
}
NAMES = [
    "read",
    "write",
    "clone",
    "mmap2",
    "getpid",
    "chown32",
    "ptrace",
    "ioctl",
    "stime",
    "futex",
]
VALUES = [0, 1, 2, 38, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]

arguments = st.builds(
    SeccompArgument,
    index=st.integers(0, 5),
    value=st.sampled_from(VALUES),
    op=st.sampled_from(
        [f"SCMP_CMP_{op}" for op in ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")]
    ),
    value_two=st.sampled_from(VALUES),
)
rules = st.builds(
    SeccompSyscalls,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple),
    action=st.sampled_from(sorted(ACTIONS)),
    errno_ret=st.none(),
    args=st.lists(arguments, max_size=3).map(tuple),
)
values = st.tuples(*[st.sampled_from(VALUES)] * 6)


def numbers(architecture: machine.Architecture) -> list[int]:
    ways = [call.number for name in NAMES for call in machine.calls(name, architecture)]
    return [*ways, 0, 1, 300]


OPERATORS = {
    "SCMP_CMP_EQ": operator.eq,
    "SCMP_CMP_NE": operator.ne,
    "SCMP_CMP_LT": operator.lt,
    "SCMP_CMP_LE": operator.le,
    "SCMP_CMP_GT": operator.gt,
    "SCMP_CMP_GE": operator.ge,
}


def holds(condition: SeccompArgument, given_values: Sequence[int], mask: int) -> bool:
    """mask: what an architecture has of 64 bits."""
    value, wanted = given_values[condition.index] & mask, condition.value & mask
    if condition.op == "SCMP_CMP_MASKED_EQ":
        return value & wanted == condition.value_two & wanted
    return bool(OPERATORS[condition.op](value, wanted))


def meant(profile: Seccomp, name: str, given_values: Sequence[int], mask: int) -> str:
    """The action that the profile's words come to."""
    ours = [r for r in profile.syscalls if name in r.names and r.action != profile.default_action]
    for rule in ours:
        if not rule.args:
            return rule.action
    for rule in ours:
        if all(holds(condition, given_values, mask) for condition in rule.args):
            return rule.action
    return profile.default_action


@settings(deadline=None)
@given(st.lists(rules, max_size=6), st.lists(values, min_size=1, max_size=8))
def test_programs_do_what_profiles_say(
    listed: list[SeccompSyscalls], tried: list[tuple[int, ...]]
) -> None:
    profile = Seccomp("SCMP_ACT_ALLOW", architectures=ALL, syscalls=tuple(listed))
    code = program(profile)
    for architecture in machine.MACHINES["x86_64"]:
        mask = (1 << (64 if architecture.wide else 32)) - 1
        for name in NAMES:
            for call in machine.calls(name, architecture):
                for given_values in tried:
                    wanted = ACTIONS[meant(profile, name, given_values, mask)]
                    assert verdict(code, architecture.audit, call.number, given_values) == wanted


@settings(deadline=None)
@given(rules, st.lists(values, min_size=1, max_size=8))
def test_conditions_mean_what_they_mean_to_libseccomp(
    rule: SeccompSyscalls, tried: list[tuple[int, ...]]
) -> None:
    """Of one rule; two for one call with overlapping conditions, libseccomp may get wrong."""
    indices = [condition.index for condition in rule.args]
    assume(len(indices) == len(set(indices)))  # it takes one condition an argument
    rule = replace(rule, action="SCMP_ACT_ERRNO")
    ours = program(Seccomp("SCMP_ACT_ALLOW", architectures=ALL, syscalls=(rule,)))
    theirs = oracle(ALLOW, [(ACTIONS[rule.action], rule)])
    for architecture in (machine.X86_64, machine.X86):
        for number in numbers(architecture):
            for given_values in tried:
                row = (architecture.audit, number, given_values)
                assert verdict(ours, *row) == verdict(theirs, *row), row


plain_rules = st.builds(
    SeccompSyscalls,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple),
    action=st.sampled_from(sorted(ACTIONS)),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(ACTIONS)), st.lists(plain_rules, max_size=6))
def test_the_first_of_two_rules_for_a_call_holds(
    default: str, listed: list[SeccompSyscalls]
) -> None:
    ours = program(Seccomp(default, architectures=ALL, syscalls=tuple(listed)))
    others = [rule for rule in listed if rule.action != default]
    theirs = oracle(ACTIONS[default], [(ACTIONS[rule.action], rule) for rule in others])
    for architecture in (machine.X86_64, machine.X86):
        for number in numbers(architecture):
            wanted = verdict(theirs, architecture.audit, number)
            answer = verdict(ours, architecture.audit, number)
            assert answer == wanted or (answer == 0x00050026 and default != "SCMP_ACT_ALLOW")


def rule(name: str, action: str, *conditions: SeccompArgument) -> SeccompSyscalls:
    return SeccompSyscalls((name,), action, None, conditions)


ONE = SeccompArgument(0, 1, "SCMP_CMP_EQ")


def test_a_rule_without_conditions_decides_whatever_others_say() -> None:
    for listed in ((0, 1), (1, 0)):
        both = [rule("read", "SCMP_ACT_ERRNO"), rule("read", "SCMP_ACT_LOG", ONE)]
        profile = Seccomp("SCMP_ACT_ALLOW", syscalls=tuple(both[at] for at in listed))
        code = program(profile)
        for first in (0, 1):
            assert verdict(code, machine.X86_64.audit, 0, [first]) == ACTIONS["SCMP_ACT_ERRNO"]


def test_the_first_rule_whose_conditions_hold_decides() -> None:
    above = SeccompArgument(0, 0, "SCMP_CMP_GT")
    profile = Seccomp(
        "SCMP_ACT_ALLOW",
        syscalls=(rule("read", "SCMP_ACT_ERRNO", ONE), rule("read", "SCMP_ACT_LOG", above)),
    )
    answers = [verdict(program(profile), machine.X86_64.audit, 0, [value]) for value in (0, 1, 2)]
    assert answers == [ALLOW, ACTIONS["SCMP_ACT_ERRNO"], ACTIONS["SCMP_ACT_LOG"]]


def test_two_conditions_on_one_argument_make_a_range() -> None:
    low, high = SeccompArgument(0, 3, "SCMP_CMP_GE"), SeccompArgument(0, 5, "SCMP_CMP_LT")
    code = program(Seccomp("SCMP_ACT_ALLOW", syscalls=(rule("read", "SCMP_ACT_ERRNO", low, high),)))
    answers = [verdict(code, machine.X86_64.audit, 0, [value]) for value in (2, 3, 4, 5)]
    assert answers == [ALLOW, ACTIONS["SCMP_ACT_ERRNO"], ACTIONS["SCMP_ACT_ERRNO"], ALLOW]


SOCKETCALL, IPC, CONNECT, SHMGET = 102, 117, 3, 23


def test_old_calls_that_stand_for_many_are_filtered_too() -> None:
    profile = Seccomp(
        "SCMP_ACT_ALLOW",
        architectures=ALL,
        syscalls=(rule("connect", "SCMP_ACT_ERRNO"), rule("shmget", "SCMP_ACT_ERRNO")),
    )
    code, x86 = program(profile), machine.X86.audit
    refused = ACTIONS["SCMP_ACT_ERRNO"]
    assert verdict(code, x86, 362) == verdict(code, x86, 395) == refused
    assert verdict(code, x86, SOCKETCALL, [CONNECT]) == refused
    assert verdict(code, x86, SOCKETCALL, [CONNECT + 1]) == ALLOW
    for version in (0, 1 << 16):  # the kernel takes a version in the upper half
        assert verdict(code, x86, IPC, [SHMGET | version]) == refused
    assert verdict(code, x86, IPC, [SHMGET + 1]) == ALLOW


def test_what_an_old_call_hides_is_refused_not_allowed() -> None:
    """socketcall's arguments lie in memory: a condition on them can't be checked."""
    x86 = machine.X86.audit
    refusing = Seccomp(
        "SCMP_ACT_ALLOW", architectures=ALL, syscalls=(rule("connect", "SCMP_ACT_ERRNO", ONE),)
    )
    assert verdict(program(refusing), x86, SOCKETCALL, [CONNECT]) == ACTIONS["SCMP_ACT_ERRNO"]
    allowing = Seccomp(
        "SCMP_ACT_ERRNO", architectures=ALL, syscalls=(rule("connect", "SCMP_ACT_ALLOW", ONE),)
    )
    assert verdict(program(allowing), x86, 362, [1]) == ALLOW
    assert verdict(program(allowing), x86, SOCKETCALL, [CONNECT]) == ACTIONS["SCMP_ACT_ERRNO"]


def test_x32_is_killed_where_the_profile_does_not_list_it() -> None:
    code = program(
        Seccomp("SCMP_ACT_ALLOW", architectures=ALL[:2], syscalls=(rule("read", "SCMP_ACT_LOG"),))
    )
    assert verdict(code, machine.X86_64.audit, machine.X32_BIT) == KILL
    assert verdict(code, machine.X86_64.audit, machine.X32_BIT - 1) == ALLOW
    assert verdict(code, machine.X86_64.audit, machine.SKIPPED) == ALLOW


def test_architectures_of_other_machines_are_passed_over() -> None:
    listed = ("SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X", *ALL)
    rules_of_both = (rule("read", "SCMP_ACT_LOG"),)
    assert program(
        Seccomp("SCMP_ACT_ALLOW", architectures=listed, syscalls=rules_of_both)
    ) == program(Seccomp("SCMP_ACT_ALLOW", architectures=ALL, syscalls=rules_of_both))
