"""What of an adjustment nobody here can honour, and why. Pure.

A wish that is passed over in silence would be a container other than the plugin believes it to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cri.errors import AdjustmentImpossible
from cri.nri import resources
from cri.nri.adjustments import HOOKS, RDT
from cri.nri.api import nri_pb2 as nri
from cri.nri.owners import removed

Owner = Callable[[nri.Field, str], str]
"""The plugin that has set a field (or an entry of it)."""
Refusal = tuple[nri.Field, str, str, str]
"""A field, its entry, where it stands, and why not."""

_NAMESPACES = ("cgroup", "ipc", "network", "pid", "uts")
_RDT_REASON = "podwright puts nobody into classes of RDT (/sys/fs/resctrl)"
_WITHOUT_PATH = ("cgroup", "pid")
_RESOURCES_WITHOUT = {
    "memory.kernel": "the kernel has no such limit any more",
}


def check(wanted: nri.ContainerAdjustment, owner: Owner) -> None:
    """Raises AdjustmentImpossible."""
    for field, entry, where, reason in _refusals(wanted):
        raise AdjustmentImpossible(owner(field, entry) or "(unknown)", where, reason)


def _refusals(wanted: nri.ContainerAdjustment) -> Iterator[Refusal]:
    linux = wanted.linux
    for name, field in RDT.items():  # to have none is what a container has
        if linux.rdt.HasField(name):
            yield field, "", f"linux.rdt.{name}", _RDT_REASON
    for field, entry, path in resources.given(linux.resources):
        if path in _RESOURCES_WITHOUT:
            yield field, entry, f"linux.resources.{path}", _RESOURCES_WITHOUT[path]
    if linux.resources.rdt_class.value:
        yield nri.RdtClass, "", "linux.resources.rdt_class", _RDT_REASON
    memory = linux.resources.memory
    if memory.HasField("use_hierarchy") and not memory.use_hierarchy.value:
        reason = "the kernel's cgroups are hierarchical, always"
        yield nri.MemUseHierarchy, "", "linux.resources.memory.use_hierarchy", reason
    yield from _of_namespaces(linux)
    yield from _of_hooks(wanted.hooks)


def _of_namespaces(linux: nri.LinuxContainerAdjustment) -> Iterator[Refusal]:
    for namespace in linux.namespaces:
        name = removed(namespace.type) or namespace.type
        where, reason = f"linux.namespaces[{name}]", ""
        if name not in _NAMESPACES:
            reason = f"only {', '.join(_NAMESPACES)} can be other than the pod's"
        elif namespace.path and name in _WITHOUT_PATH:
            reason = "it may be new, or the node's, but no existing one can be joined"
        elif namespace.path and not namespace.path.startswith("/"):
            reason = f"{namespace.path!r} is no absolute path"
        if reason:
            yield nri.Namespace, name, where, reason


def _of_hooks(hooks: nri.Hooks) -> Iterator[Refusal]:
    for name in HOOKS:
        for index, hook in enumerate(getattr(hooks, name)):
            where = f"hooks.{name}[{index}]"
            texts = (hook.path, *hook.args, *hook.env)
            if not hook.path.startswith("/") or any("\0" in text for text in texts):
                reason = f"{hook.path!r} is no absolute path, or a text contains a NUL byte"
                yield nri.OciHooks, "", where, reason
            if any(text.find("=") < 1 for text in hook.env):
                yield nri.OciHooks, "", f"{where}.env", "not all are of the form NAME=value"
            if hook.HasField("timeout") and not 0 < hook.timeout.value < 1 << 31:
                yield nri.OciHooks, "", f"{where}.timeout", f"{hook.timeout.value} seconds"
