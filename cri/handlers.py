"""[runtime.handlers.NAME]: a runtime that a RuntimeClass may name, and what its containers get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cri.toml_tables import absolute_or_empty, key, one_of

DEFAULT_HANDLER = "podwright"  # also what a pod without a RuntimeClass gets
EMBEDDED, OCI, SHIM = "podwright", "oci", "shim"
NONE, TASK, API = "none", "task", "api"  # as runtime.handlers.shim_v2 has them
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
        "crun or runsc. shim: one of containerd's shims, such as Kata's. Both need `path`.",
        one_of(EMBEDDED, OCI, SHIM),
    )
    path: str = key("", "oci, shim: the program.", absolute_or_empty)
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
        (), "oci, shim: mounts of the node that the program and its containers don't see.", _paths
    )
    options: Mapping[str, str | bool | int] = field(
        default_factory=dict,
        metadata={
            "doc": "shim: the runtime's options, by the names that containerd's configuration has "
            "for them: BinaryName for runc's shim, ConfigPath and TypeUrl for others."
        },
    )
    sandbox: str = key(
        NONE,
        "shim: what it makes of a pod before its containers. none: nothing. task: a container for "
        "the pod itself, as Kata's wants one. api: a sandbox, by containerd's sandbox service, "
        "where the shim has that.",
        one_of(NONE, TASK, API),
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

    @property
    def program(self) -> bool:
        """Containers are made by somebody else's program."""
        return self.type != EMBEDDED

    @property
    def makes_sandboxes(self) -> bool:
        """With the pod, before any container."""
        return self.sandbox == API

    def problem(self) -> tuple[str, str]:
        """A key that does not go with the others, and why; empty: all go together."""
        if self.program and not self.path:
            return "path", f"is missing: type {self.type} needs the program"
        for kinds, names in _ONLY.items():
            unfit = [name for name in names if getattr(self, name) != getattr(_DEFAULTS, name)]
            if unfit and self.type not in kinds:
                return unfit[0], f"is only for type = {' or '.join(map(_quoted, kinds))}"
        return self._options_problem() if self.options else ("", "")

    def _options_problem(self) -> tuple[str, str]:
        from runtime.handlers import shim_options  # protobuf, for those who have a shim

        try:
            shim_options.message(self.path, self.options)
        except ValueError as error:
            return "options", f"can't be given to it: {error}"
        return "", ""


_DEFAULTS = HandlerConfig()
_ONLY: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (OCI, SHIM): ("path", "hidden_mounts"),
    (OCI,): ("root", "arguments", "own_cgroup"),
    (SHIM,): ("options", "sandbox"),
}


def _quoted(text: str) -> str:
    return f'"{text}"'
