"""A process of a spec as a plan: arguments, environment, identity, limits. Pure, as plan.py is."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.errors import InvalidSpec
from runtime.init import capabilities
from runtime.init.scheduling import scheduling
from runtime.init.values import Identity, ProcessPlan, RlimitPlan, UserMap
from runtime.spec import IdMapping, Linux, Process, Rlimit, Spec, User, UserLookup

SPEC_ALLOW = 4  # SECCOMP_FILTER_FLAG_SPEC_ALLOW: a filter alone must not slow the CPU down
MAX_ID = 2**32 - 2  # 2**32 - 1 is (uid_t) -1: "leave it"
_MAX_GROUPS = 65536  # NGROUPS_MAX
_RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_INFINITY = 2**64 - 1


def process(
    spec: Spec,
    args: tuple[str, ...],
    *,
    seccomp_program: bytes = b"",
    seccomp_flags: int = SPEC_ALLOW,
    identity: Identity | None = None,
) -> ProcessPlan:
    """A process like the container's first one, with other arguments. Raises InvalidSpec.

    identity: who the container's process turned out to be, when an exec'ed one is planned.
    """
    wanted = spec.process
    if not args:
        raise InvalidSpec("process.args", "empty: neither the image nor the pod names a command")
    if not args[0]:
        raise InvalidSpec("process.args[0]", "the command is empty")
    for index, argument in enumerate(args):
        checked_text(argument, f"process.args[{index}]")
    if not wanted.cwd.startswith("/"):
        raise InvalidSpec("process.cwd", f'"{wanted.cwd}" is not absolute')
    env = _environment(wanted.env)
    knows_home = any(item.startswith("HOME=") and item != "HOME=" for item in env)
    size = wanted.console_size
    return ProcessPlan(
        args=args,
        env=env,
        cwd=checked_text(wanted.cwd, "process.cwd"),
        terminal=wanted.terminal,
        rows=size.height if size else 0,
        columns=size.width if size else 0,
        identity=identity or _identity(wanted.user),
        lookup=None if identity else _lookup(wanted),
        home_lookup=not knows_home and not (identity and identity.home),
        user_map=user_map(spec.linux),
        umask=_umask(wanted.user),
        capabilities=capabilities.masks(wanted.capabilities),
        rlimits=_rlimits(wanted.rlimits),
        no_new_privileges=wanted.no_new_privileges,
        oom_score_adj=_oom_score(wanted.oom_score_adj),
        seccomp=seccomp_program,
        seccomp_flags=seccomp_flags if seccomp_program else 0,
        apparmor_profile=checked_text(wanted.apparmor_profile or "", "process.apparmorProfile"),
        scheduling=scheduling(spec),
        selinux_label=checked_text(wanted.selinux_label or "", "process.selinuxLabel"),
    )


def _environment(env: Iterable[str]) -> tuple[str, ...]:
    """NAME=value each, the last one of a name counts, at the place of the first."""
    found: dict[str, str] = {}
    for index, item in enumerate(env):
        name, equals, _ = checked_text(item, f"process.env[{index}]").partition("=")
        if not equals or not name:
            raise InvalidSpec(f"process.env[{index}]", f'"{item}" is not of the form NAME=value')
        found[name] = item
    return tuple(found.values())


def _groups(groups: Iterable[int], path: str) -> tuple[int, ...]:
    found = tuple(dict.fromkeys(checked_id(group, path) for group in groups))
    if len(found) > _MAX_GROUPS:
        raise InvalidSpec(path, f"{len(found)} groups; Linux allows {_MAX_GROUPS}")
    return found


def _identity(user: User) -> Identity:
    gid = checked_id(user.gid, "process.user.gid")
    return Identity(
        uid=checked_id(user.uid, "process.user.uid"),
        gid=gid,  # among the groups, always: CVE-2022-36109
        groups=_groups((gid, *user.additional_gids), "process.user.additionalGids"),
    )


def _lookup(wanted: Process) -> UserLookup | None:
    lookup = wanted.user_lookup
    if lookup is None:
        return None
    checked_text(lookup.user, "process.userLookup.user")
    if lookup.group is not None:
        checked_id(lookup.group, "process.userLookup.group")
    _groups(lookup.supplemental, "process.userLookup.supplemental")
    return lookup


def user_map(linux: Linux) -> UserMap | None:
    """The user namespace of a spec; None: the node's. Raises InvalidSpec."""
    if not any(item.type == "user" for item in linux.namespaces):
        if linux.uid_mappings or linux.gid_mappings:
            raise InvalidSpec("linux.uidMappings", "given, but there is no user namespace")
        return None
    users = _range(linux.uid_mappings, "linux.uidMappings")
    groups = _range(linux.gid_mappings, "linux.gidMappings")
    return UserMap(users.host_id, groups.host_id, users.size, groups.size)


def _range(mappings: tuple[IdMapping, ...], path: str) -> IdMapping:
    """The one range that a user namespace may have: from 0 on, the node's root not among it."""
    if len(mappings) != 1:
        raise InvalidSpec(path, f"{len(mappings)} ranges; one is supported")
    (only,) = mappings
    if only.container_id != 0:
        raise InvalidSpec(path, f"begins with {only.container_id}: 0 must be mapped")
    if only.host_id < 1 or only.size < 1 or only.host_id + only.size - 1 > MAX_ID:
        raise InvalidSpec(path, f"{only.size} ids from {only.host_id} on are not in 1..{MAX_ID}")
    return only


def _umask(user: User) -> int:
    if user.umask is None:
        return 0o022
    if not 0 <= user.umask <= 0o777:
        raise InvalidSpec("process.user.umask", f"{user.umask:o} is not in 0..777 (octal)")
    return user.umask


def _oom_score(score: int | None) -> int | None:
    if score is not None and not -1000 <= score <= 1000:
        raise InvalidSpec("process.oomScoreAdj", f"{score} is not in -1000..1000")
    return score


def _rlimits(rlimits: Iterable[Rlimit]) -> tuple[RlimitPlan, ...]:
    found: dict[str, RlimitPlan] = {}
    for index, limit in enumerate(rlimits):
        path = f"process.rlimits[{index}]"
        if limit.type not in _RLIMITS:
            raise InvalidSpec(f"{path}.type", f'"{limit.type}" is no resource limit of Linux')
        if limit.type in found:
            raise InvalidSpec(f"{path}.type", f'"{limit.type}" occurs twice')
        soft, hard = (_limit(value, path) for value in (limit.soft, limit.hard))
        if hard != -1 and (soft == -1 or soft > hard):
            raise InvalidSpec(f"{path}.soft", f"{limit.soft} is above hard, {limit.hard}")
        found[limit.type] = RlimitPlan(limit.type, _RLIMITS[limit.type], soft, hard)
    return tuple(found.values())


def _limit(value: int, path: str) -> int:
    if value in (-1, _INFINITY):
        return -1
    if not 0 <= value < 2**63:
        raise InvalidSpec(path, f"{value} is not in 0..2^63-1, nor 2^64-1 (no limit)")
    return value


def checked_text(text: str, path: str) -> str:
    """The text itself, if a C string can hold it; else InvalidSpec."""
    if "\0" in text:
        raise InvalidSpec(path, "contains a NUL byte")
    return text


def checked_id(number: int, path: str) -> int:
    """The number itself, if it is a uid or gid; else InvalidSpec."""
    if not 0 <= number <= MAX_ID:
        raise InvalidSpec(path, f"{number} is not in 0..{MAX_ID}")
    return number
