"""Which namespaces a container has that are not its pod's, and the sysctls it sets in what it has.

Pure. https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces, #sysctl
"""

from __future__ import annotations

import os

from runtime.errors import InvalidSpec
from runtime.init.sandbox import sysctl_path
from runtime.init.values import NamespaceStep
from runtime.linux.namespace import Clone
from runtime.spec import NEW_NAMESPACE, NODE_NAMESPACE, Linux

_SHARED = {  # by a pod's containers: the flag, and the name in /proc/PID/ns
    "network": (Clone.NEWNET, "net"),
    "ipc": (Clone.NEWIPC, "ipc"),
    "uts": (Clone.NEWUTS, "uts"),
}
_OF_SYSCTLS = (
    ("net.", "network"),
    ("kernel.domainname", "uts"),
    ("kernel.", "ipc"),
    ("fs.mqueue.", "ipc"),
)


def own_namespaces(linux: Linux) -> tuple[NamespaceStep, ...]:
    """Raises InvalidSpec."""
    found = []
    changed = {namespace_of(name) for name in linux.sysctl}
    for item in linux.namespaces:
        if item.type not in _SHARED or not item.path:
            continue
        flag, name = _SHARED[item.type]
        path = node_path(name) if item.path == NODE_NAMESPACE else item.path
        if path == NEW_NAMESPACE:
            path = ""
        elif not path.startswith("/") or "\0" in path:
            raise InvalidSpec("linux.namespaces", f"{item.type}: {path!r} is no absolute path")
        node = node_path(name) if path and item.type in changed else ""
        found.append(NamespaceStep(int(flag), path, node))
    return tuple(found)


def node_path(name: str) -> str:
    """Where the node's namespace is found: the daemon, which lives in it, waits for the start."""
    return f"/proc/{os.getpid()}/ns/{name}"


def namespace_of(name: str) -> str:
    """The kind of namespace that a sysctl belongs to, of those that can be a pod's."""
    dotted = name.replace("/", ".")
    return next((kind for prefix, kind in _OF_SYSCTLS if dotted.startswith(prefix)), "")


def sysctls(linux: Linux) -> tuple[tuple[str, ...], ...]:
    """Files below /proc and values. Raises InvalidSpec for what is not of these namespaces."""
    if not linux.sysctl:
        return ()
    own = {item.type for item in linux.namespaces if item.path != NODE_NAMESPACE}
    found = []
    for name, value in linux.sysctl.items():
        if not name.isprintable():
            raise InvalidSpec("linux.sysctl", f"{name!r} can't be the name of a sysctl")
        field = f"linux.sysctl[{name}]"
        try:
            path = sysctl_path(name)
        except ValueError as error:
            raise InvalidSpec(field, str(error)) from None
        if "\0" in value:
            raise InvalidSpec(field, f"{value[:80]!r} contains a NUL byte")
        if (kind := namespace_of(name)) not in own:
            raise InvalidSpec(
                field, f"the container has the node's {kind} namespace: not for a pod"
            )
        found.append((path, value))
    return tuple(found)
