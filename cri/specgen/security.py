"""What a container may do: capabilities, seccomp, hidden paths."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from runtime.init.capabilities import NAMES
from runtime.seccomp.profile import default_profile
from runtime.spec import Capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cri.specgen.subject import Subject
    from runtime.spec import Seccomp

_FIELD = "config.linux.security_context"
_KNOWN = frozenset(NAMES)

# What every Kubernetes runtime gave to containers when it was young, and pods rely on.
DEFAULT_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)

# For a request without a security context at all; with one, its own lists count, empty ones too.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class SeccompChoice:
    """Which filter is asked for. kind: unconfined, default or localhost; path: localhost's file."""

    kind: str
    path: str = ""


UNCONFINED = SeccompChoice("unconfined")
DEFAULT = SeccompChoice("default")


def check_privileged(subject: Subject) -> None:
    """A privileged container needs a privileged sandbox: a cluster's policy looks at pods."""
    pod = subject.sandbox.linux.security_context
    if subject.security.privileged and not pod.privileged:
        raise InvalidRequest(
            f"{_FIELD}.privileged", "no privileged container is allowed in an unprivileged sandbox"
        )


def capabilities(security: api.LinuxContainerSecurityContext) -> Capabilities:
    """The default ones, changed as asked: ALL first, then the names; what is dropped is dropped.

    Ambient ones only where asked for, and only of what the container has.
    """
    if security.privileged:
        return Capabilities(NAMES, NAMES, NAMES)
    wanted = security.capabilities
    added = _names(wanted.add_capabilities, "add_capabilities")
    dropped = _names(wanted.drop_capabilities, "drop_capabilities")
    held = set(DEFAULT_CAPABILITIES)
    if "CAP_ALL" in added:
        held = set(NAMES)
    if "CAP_ALL" in dropped:
        held = set()
    held = ((held | added) - dropped) & _KNOWN
    result = tuple(name for name in NAMES if name in held)
    ambient = _names(wanted.add_ambient_capabilities, "add_ambient_capabilities")
    if not ambient:
        return Capabilities(result, result, result)
    raised = tuple(name for name in result if name in ambient or "CAP_ALL" in ambient)
    return Capabilities(result, result, result, inheritable=raised, ambient=raised)


def seccomp_choice(security: api.LinuxContainerSecurityContext) -> SeccompChoice:
    """From `seccomp`, else from the field that it replaced; nothing said: no filter."""
    if security.privileged:
        return UNCONFINED
    if not security.HasField("seccomp"):
        return _deprecated_seccomp(security.seccomp_profile_path)
    profile = security.seccomp
    localhost = profile.profile_type == api.SecurityProfile.Localhost
    if profile.localhost_ref and not localhost:
        kind = api.SecurityProfile.ProfileType.Name(profile.profile_type)
        raise InvalidRequest(
            f"{_FIELD}.seccomp.localhost_ref", f"given, though profile_type is {kind}"
        )
    if localhost:
        return _localhost(profile.localhost_ref, "seccomp.localhost_ref")
    return UNCONFINED if profile.profile_type == api.SecurityProfile.Unconfined else DEFAULT


def seccomp(subject: Subject, capability_names: Iterable[str]) -> Seccomp | None:
    """The filter's profile; None: no filter."""
    choice = seccomp_choice(subject.security)
    if choice is UNCONFINED:
        return None
    if subject.facts.seccomp is not None:
        return subject.facts.seccomp
    return default_profile(capability_names)


def masked_paths(subject: Subject) -> tuple[str, ...]:
    """What is hidden. An empty list hides nothing (procMount: Unmasked)."""
    if subject.security.privileged:
        return ()
    if not subject.config.linux.HasField("security_context"):
        return MASKED_PATHS
    return tuple(subject.security.masked_paths)


def readonly_paths(subject: Subject) -> tuple[str, ...]:
    """What can't be written to, with the same rule."""
    if subject.security.privileged:
        return ()
    if not subject.config.linux.HasField("security_context"):
        return READONLY_PATHS
    return tuple(subject.security.readonly_paths)


def _names(given: Iterable[str], field: str) -> frozenset[str]:
    """With CAP_ in front, in capitals. Raises InvalidRequest for a name that Linux doesn't have."""
    found = set()
    for name in given:
        full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
        if full not in _KNOWN and full != "CAP_ALL":
            near = difflib.get_close_matches(full, NAMES, n=1)
            hint = f": did you mean {near[0].removeprefix('CAP_')}?" if near else ""
            raise InvalidRequest(
                f"{_FIELD}.capabilities.{field}", f"Linux has no capability {name!r}{hint}"
            )
        found.add(full)
    return frozenset(found)


def _deprecated_seccomp(path: str) -> SeccompChoice:
    if path in ("", "unconfined"):
        return UNCONFINED
    if path in ("runtime/default", "docker/default"):
        return DEFAULT
    if path.startswith("localhost/"):
        return _localhost(path.removeprefix("localhost/"), "seccomp_profile_path")
    raise InvalidRequest(
        f"{_FIELD}.seccomp_profile_path",
        f"{path!r} is none of runtime/default, unconfined, localhost/<absolute path>",
    )


def _localhost(path: str, field: str) -> SeccompChoice:
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"{_FIELD}.{field}", f"{path!r} is not an absolute path")
    return SeccompChoice("localhost", path)
