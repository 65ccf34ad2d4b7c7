"""[runtime.handlers.NAME]: a runtime that a RuntimeClass may name, and what its containers get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cri.toml_tables import absolute_or_empty, key, one_of

DEFAULT_HANDLER = "podwright"  # also what a pod without a RuntimeClass gets
EMBEDDED, OCI = "podwright", "oci"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # what a RuntimeClass may name


def handler_names(names: tuple[str, ...]) -> str:
    """What is wrong with one of them."""
    bad = [name for name in names if not _NAME.fullmatch(name)]
    return (
        f"{bad[0]!r} can't be a handler: lower-case letters, digits and -, up to 63" if bad else ""
    )


def _paths(values: tuple[str, ...]) -> str:
    bad = [value for value in values if not value.startswith("/") or value == "/"]
    return f"{bad[0]!r} is no absolute path of a mount" if bad else ""


@dataclass(frozen=True, slots=True)
class HandlerConfig:
    """The defaults are the embedded runtime, as it is."""

    type: str = key(
        EMBEDDED,
        "podwright: the embedded runtime. oci: a program with the OCI command line, such as runc, "
        "crun or runsc; it needs `path`.",
        one_of(EMBEDDED, OCI),
    )
    path: str = key("", "oci: the program.", absolute_or_empty)
    root: str = key(
        "", "oci: its state directory (--root); empty: <state>/handlers/<name>.", absolute_or_empty
    )
    arguments: tuple[str, ...] = key((), "oci: global arguments, before the command.")
    own_cgroup: bool = key(
        default=True,
        doc="oci: the program makes the container's cgroup. False: podwright does, and starts the "
        "program in it (runsc --ignore-cgroups).",
    )
    hidden_mounts: tuple[str, ...] = key(
        (), "oci: mounts of the node that the program and its containers don't see.", _paths
    )
    seccomp_profile: str = key(
        "", "Stands for containers.seccomp_profile with this handler.", absolute_or_empty
    )
    readonly_sysfs: bool = key(default=False, doc="/sys is read-only in privileged containers too.")
    privileged_without_host_devices: bool = key(
        default=False, doc="Privileged containers don't get the node's devices."
    )
    base_runtime_spec: str = key(
        "", "A JSON file in the form of config.json: what a pod doesn't decide.", absolute_or_empty
    )
    default_annotations: Mapping[str, str] = field(
        default_factory=dict, metadata={"doc": "Annotations of every container's OCI spec."}
    )
    pod_annotations: tuple[str, ...] = key(
        (), "Patterns (io.katacontainers.*) of pods' annotations that reach the OCI spec."
    )
    container_annotations: tuple[str, ...] = key(
        (), "The same, of containers' annotations; these win."
    )

    def problem(self) -> tuple[str, str]:
        """A key that does not go with the others, and why; empty: all go together."""
        if self.type == OCI:
            return ("", "") if self.path else ("path", "is missing: type oci needs the program")
        unfit = [
            name
            for name in ("path", "root", "arguments", "hidden_mounts")
            if getattr(self, name) not in ("", ())
        ]
        if not self.own_cgroup:
            unfit.append("own_cgroup")
        return (unfit[0], 'is only for type = "oci"') if unfit else ("", "")
