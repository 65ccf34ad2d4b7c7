"""The last rule about an access decides, whichever kernel interface carries the rules."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cgroup import devices
from runtime.errors import InvalidSpec
from runtime.spec import DeviceRule

DENY_ALL, ALLOW_ALL = DeviceRule(allow=False), DeviceRule(allow=True)

rules = st.lists(
    st.builds(
        DeviceRule,
        allow=st.booleans(),
        type=st.sampled_from("abcc"),
        major=st.sampled_from([None, -1, 1, 2, 4_000_000_000]),
        minor=st.sampled_from([None, 1, 2]),
        access=st.sampled_from(["rwm", "r", "w", "m", "rw", "mr", ""]),
    ),
    max_size=8,
)
accesses = st.tuples(
    st.sampled_from("bc"),
    st.sampled_from([1, 2, 3, 4_000_000_000]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["r", "w", "m", "rw"]),
)
Access = tuple[str, int, int, str]


def permitted(checked: tuple[DeviceRule, ...], access: Access) -> bool:
    """The rule of the specification, letter by letter."""
    kind, major, minor, letters = access

    def verdict(letter: str) -> bool:
        for rule in reversed(checked):
            if rule.type == "a" or (
                rule.type == kind
                and rule.major in (None, major)
                and rule.minor in (None, minor)
                and letter in rule.access
            ):
                return rule.allow
        return False

    return all(map(verdict, letters))


def run(program: bytes, access: Access) -> bool:  # noqa: C901 - one case an instruction
    """What a kernel does with the program, for the instructions that occur in it."""
    kind, major, minor, letters = access
    wanted = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in letters)
    context = {0: {"b": 1, "c": 2}[kind] | wanted << 16, 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    while True:
        code, pair, offset, immediate = struct.unpack_from("<BBhi", program, at * 8)
        target, source, value = pair & 15, pair >> 4, immediate & 0xFFFFFFFF
        at += 1
        match code:
            case 0x61:
                registers[target] = context[offset]
            case 0xBC:
                registers[target] = registers[source]
            case 0xB4:
                registers[target] = value
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0x56:
                at += offset if registers[target] != value else 0
            case 0x46:
                at += offset if registers[target] & value else 0
            case 0x05:
                at += offset
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def kernel_v1(policy: devices.Policy, access: Access) -> bool:
    """How security/device_cgroup.c looks an access up in a list."""
    kind, major, minor, letters = access
    matching = [
        rule
        for rule in policy.exceptions
        if rule.type == kind and rule.major in (None, major) and rule.minor in (None, minor)
    ]
    if policy.allow_all:  # an exception that shares any access refuses
        return not any(set(rule.access) & set(letters) for rule in matching)
    return any(set(letters) <= set(rule.access) for rule in matching)


@settings(deadline=None)
@given(rules, accesses)
def test_the_program_follows_the_last_rule(given_rules: list[DeviceRule], access: Access) -> None:
    checked = devices.checked(given_rules)
    assert run(devices.bpf_program(checked), access) == permitted(checked, access)


@settings(deadline=None)
@given(rules, accesses)
def test_the_v1_list_never_allows_more(given_rules: list[DeviceRule], access: Access) -> None:
    checked = devices.checked(given_rules)
    try:
        policy = devices.policy(checked)
    except InvalidSpec:
        return
    if len(access[3]) == 1:  # v1 can't join two entries for one open
        assert kernel_v1(policy, access) == permitted(checked, access)
    elif kernel_v1(policy, access):
        assert permitted(checked, access)


def test_without_rules_only_harmless_devices_are_left() -> None:
    policy = devices.policy(devices.checked(()))
    assert not policy.allow_all
    assert [devices.line(rule) for rule in policy.exceptions] == [
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    ]


def test_privileged_needs_no_list_at_all() -> None:
    checked = devices.checked([DENY_ALL, ALLOW_ALL])
    assert devices.everything(checked)
    assert devices.policy(checked) == devices.Policy(allow_all=True)
    assert not devices.everything(devices.checked([ALLOW_ALL, DENY_ALL]))
    assert not devices.everything(
        devices.checked([ALLOW_ALL, DeviceRule(allow=False, type="c", major=10, minor=200)])
    )


def test_accesses_to_one_device_are_united() -> None:
    tun = DeviceRule(allow=True, type="c", major=10, minor=200, access="w")
    read = DeviceRule(allow=True, type="c", major=10, minor=200, access="r")
    policy = devices.policy((DENY_ALL, tun, read))
    assert [devices.line(rule) for rule in policy.exceptions] == ["c 10:200 rw"]


def test_a_hole_in_a_range_is_refused_on_v1() -> None:
    whole = DeviceRule(allow=True, type="c", major=10)
    hole = DeviceRule(allow=False, type="c", major=10, minor=200)
    with pytest.raises(InvalidSpec, match=r"'c 10:200 rwm' out of 'c 10:\* rwm'"):
        devices.policy((DENY_ALL, whole, hole))


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (DeviceRule(allow=True, type="u"), "type"),
        (DeviceRule(allow=True, type="c", access="x"), "access"),
        (DeviceRule(allow=True, type="c", major=-2), "major"),
        (DeviceRule(allow=True, type="c", minor=1 << 32), "minor"),
    ],
)
def test_a_malformed_rule_is_named(rule: DeviceRule, field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        devices.checked([DENY_ALL, rule])
    assert caught.value.path == f"linux.resources.devices[1].{field}"


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="at most 500"):
        devices.checked([DENY_ALL] * 501)
