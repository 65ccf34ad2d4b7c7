"""Which SELinux labels a pod and its containers get. Pure.

What a container asks for counts, field by field; then what its pod asks for; then what the node's
policy wants of containers. The level is the pod's, with categories that no other pod has, unless
somebody asks for one. Who is not to be kept from the node (privileged, or in its pid or IPC
namespace) gets the type that is not confined, unless he asks for another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from runtime.selinux import label
from runtime.selinux.label import Label

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from runtime.selinux.node import Policy

_ANY = Label("system_u", "object_r", "unlabeled_t")
FIELD = "config.linux.security_context.selinux_options"
_NAMES = ("user", "role", "type", "level")


@dataclass(frozen=True, slots=True)
class Labels:
    """Of a container's processes and of its files; None: as podwright's own are.

    default: a label of files that the policy has.
    """

    process: Label | None = None
    mount: Label | None = None
    default: Label = _ANY

    @property
    def process_text(self) -> str:
        """ "": as podwright's own are."""
        return "" if self.process is None else str(self.process)

    @property
    def mount_text(self) -> str:
        """ "": as podwright's own are."""
        return "" if self.mount is None else str(self.mount)


NONE = Labels()


def is_asked_for(options: api.SELinuxOption) -> bool:
    return any(getattr(options, name) for name in _NAMES)


def check(options: api.SELinuxOption) -> None:
    """Whether these can be parts of a label, on whatever node. Raises InvalidRequest."""
    for name in _NAMES[:3]:
        value = getattr(options, name)
        if value and not label.is_name(value):
            raise InvalidRequest(f"{FIELD}.{name}", f"{value!r} can't be part of an SELinux label")
    if options.level and not label.is_level(options.level):
        raise InvalidRequest(
            f"{FIELD}.level", f"{options.level!r} is no level: write it as s0, or s0:c1,c2"
        )


def pod_mount(options: api.SELinuxOption, policy: Policy, taken: Collection[str]) -> Label:
    """The label of a pod's files. taken: the levels of the node's other pods."""
    level = options.level or policy.file.level
    if policy.file.level and not options.level:
        level = label.unused_level(policy.file.level, taken)
    return replace(policy.file, user=options.user or policy.file.user, level=level)


def container(
    policy: Policy, pod: Label, sandbox: api.PodSandboxConfig, config: api.ContainerConfig
) -> Labels:
    """A container's labels. pod: the label of the pod's files."""
    own = config.linux.security_context.selinux_options
    of_pod = sandbox.linux.security_context.selinux_options
    asked = {name: getattr(own, name) or getattr(of_pod, name) for name in _NAMES}
    mount = replace(pod, user=own.user or pod.user, level=own.level or pod.level)
    base = replace(policy.process, level=pod.level)
    if _is_free(sandbox, config) and not asked["type"]:
        if policy.privileged is None:
            return Labels(None, mount, policy.file)
        base = policy.privileged
    given = {name: value for name, value in asked.items() if value}
    return Labels(replace(base, **given), mount, policy.file)


def _is_free(sandbox: api.PodSandboxConfig, config: api.ContainerConfig) -> bool:
    """Whether it has been given so much of the node that separating it means nothing."""
    pod = sandbox.linux.security_context.namespace_options
    security = config.linux.security_context
    return security.privileged or api.NODE in (pod.pid, pod.ipc, security.namespace_options.pid)


def check_known(labels: Labels, knows: Callable[[Label], bool]) -> None:
    """Whether the node's policy has these labels. Raises InvalidRequest, naming field and value."""
    for wanted in filter(None, (labels.process, labels.mount)):
        if not knows(wanted):
            raise _unknown(wanted, knows, labels.default)


def _unknown(wanted: Label, knows: Callable[[Label], bool], default: Label) -> InvalidRequest:
    """Files have the role object_r, which goes with all users, types and levels that there are."""
    for name in ("user", "type", "level"):
        value = getattr(wanted, name)
        if not knows(replace(default, **{name: value})):
            return InvalidRequest(f"{FIELD}.{name}", f"{value!r}: the node's policy has no such")
    return InvalidRequest(
        f"{FIELD}.role", f"{wanted.role!r}: the node's policy does not allow '{wanted}'"
    )
