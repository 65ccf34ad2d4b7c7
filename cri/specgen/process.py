"""The container's process: what it runs, as whom, where, and with which environment."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from runtime.spec import UserLookup

if TYPE_CHECKING:
    from cri.specgen.subject import Subject
    from image.manifest import ImageConfig

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OOM_SCORES = range(-1000, 1001)
MAX_ID = 2**31 - 1  # what Kubernetes allows; larger ones would be cut by the kernel's interfaces


def args(config: api.ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """`command` replaces the entrypoint and drops the image's arguments; `args` replaces those."""
    command, arguments = tuple(config.command), tuple(config.args)
    if not command:
        command = image.entrypoint
        arguments = arguments or image.cmd
    if not command and not arguments:
        raise InvalidRequest(
            "config.command", "empty, and the image has neither entrypoint nor command: give one"
        )
    return (*command, *arguments)


def env(subject: Subject) -> tuple[str, ...]:
    """Defaults, then the image's variables, then the request's: the later one of a name counts.

    Values are bytes in CRI; those that are not UTF-8 travel as surrogates (os.fsencode).
    """
    found = {"PATH": PATH}
    if subject.config.tty:
        found["TERM"] = "TERM=xterm"
    found["HOSTNAME"] = f"HOSTNAME={subject.hostname}"
    for item in subject.image.env:
        name, equals, _ = item.partition("=")
        if name and equals:
            found[name] = item
    for index, pair in enumerate(subject.config.envs):
        if not pair.key or "=" in pair.key or "\0" in pair.key:
            raise InvalidRequest(
                f"config.envs[{index}].key", f"{pair.key!r} can't be a variable's name"
            )
        if b"\0" in pair.value:
            raise InvalidRequest(f"config.envs[{index}].value", f"{pair.key}: contains a NUL byte")
        found[pair.key] = f"{pair.key}={os.fsdecode(pair.value)}"
    return tuple(found.values())


def cwd(config: api.ContainerConfig, image: ImageConfig) -> str:
    """The request's, the image's, or the root; the image's counts from the root."""
    if not config.working_dir:
        return posixpath.normpath(f"/{image.working_dir}").replace("//", "/", 1)
    if not config.working_dir.startswith("/"):
        raise InvalidRequest("config.working_dir", f"{config.working_dir!r} is not absolute")
    return config.working_dir


def user(security: api.LinuxContainerSecurityContext, image: ImageConfig) -> UserLookup:
    """Who the process is, as far as it can be said without the container's files.

    run_as_username before run_as_user before the image's USER before root; a group alone is an
    error, for nobody would know whose it is.
    """
    name = ""
    if security.HasField("run_as_user"):
        name = str(_id(security.run_as_user.value, "run_as_user"))
    name = security.run_as_username or name
    group = None
    if security.HasField("run_as_group"):
        group = _id(security.run_as_group.value, "run_as_group")
        if not name:
            raise InvalidRequest(
                "config.linux.security_context.run_as_group",
                f"user group {group} is specified without user: "
                "set run_as_user or run_as_username as well",
            )
    return UserLookup(
        user=name or image.user or "0",
        group=group,
        supplemental=tuple(
            _id(number, f"supplemental_groups[{index}]")
            for index, number in enumerate(security.supplemental_groups)
        ),
        merge=_merges(security.supplemental_groups_policy),
    )


def _merges(policy: int) -> bool:
    """Whether the image's groups are the process's too. A policy of tomorrow is no "yes"."""
    if policy not in (api.Merge, api.Strict):
        raise InvalidRequest(
            "config.linux.security_context.supplemental_groups_policy",
            f"{policy} is neither Merge (0) nor Strict (1)",
        )
    return policy == api.Merge


def oom_score(config: api.ContainerConfig, lowest: int) -> int:
    """Always set, lest the container inherits ours, which protects the daemon."""
    wanted = config.linux.resources.oom_score_adj
    if wanted not in OOM_SCORES:
        raise InvalidRequest(
            "config.linux.resources.oom_score_adj", f"{wanted} is not between -1000 and 1000"
        )
    return max(wanted, lowest)


def _id(number: int, name: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidRequest(
            f"config.linux.security_context.{name}", f"{number} is not between 0 and {MAX_ID}"
        )
    return number
