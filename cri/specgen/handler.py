"""What a pod's runtime handler adds to its containers' specs. Pure, but for `load_base`.

What a pod decides it decides; the handler's base fills what is left open. A base may be a whole
config.json: what pods decide is passed over in it, and what nobody would honour is refused.
"""

from __future__ import annotations

import fnmatch
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cri.handlers import SHIM, HandlerConfig
from cri.specgen.resources import filled
from runtime import codec
from runtime.errors import InvalidSpec
from runtime.monitor.hooks.plan import checked
from runtime.spec import Device, Hook, Mount, Resources, Rlimit

if TYPE_CHECKING:
    from pathlib import Path

    from cri.api import api_pb2 as api
    from cri.specgen.subject import Subject
    from runtime.spec import Linux, Process, Spec

_DECIDED = frozenset(  # by the pod, the image or podwright
    (
        *("ociVersion", "hostname", "domainname", "root", "process.args", "process.cwd"),
        *("process.user", "process.terminal", "process.consoleSize", "process.capabilities"),
        *("process.noNewPrivileges", "process.oomScoreAdj", "linux.namespaces"),
        *("linux.cgroupsPath", "linux.seccomp", "linux.rootfsPropagation", "linux.sysctl"),
    )
)
_TAKEN = frozenset(
    (
        *("mounts", "annotations", "hooks", "process.env", "process.rlimits"),
        *("linux.devices", "linux.resources", "linux.maskedPaths", "linux.readonlyPaths"),
    )
)


@dataclass(frozen=True, slots=True)
class BaseProcess:
    env: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()


@dataclass(frozen=True, slots=True)
class BaseLinux:
    devices: tuple[Device, ...] = ()
    resources: Resources = field(default_factory=Resources)
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """The parts of a base spec that are taken."""

    process: BaseProcess = field(default_factory=BaseProcess)
    mounts: tuple[Mount, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict)
    linux: BaseLinux = field(default_factory=BaseLinux)


@dataclass(frozen=True, slots=True)
class RuntimeHandler:
    """A handler as this node has it. recursive_read_only: whether it knows such mounts."""

    name: str = ""
    config: HandlerConfig = field(default_factory=HandlerConfig)
    base: Base = field(default_factory=Base)
    recursive_read_only: bool = True

    @property
    def user_namespaces(self) -> bool:
        """Whether it can run a pod in one, where the node can make one: programs are given none."""
        return not self.config.program


class BaseRefused(ValueError):
    """A base spec that can't be used; the text says why."""


def load_base(path: Path) -> Base:
    """A base spec. Blocks. Raises BaseRefused."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited for, a device read
            raise BaseRefused("not a file")
        document: object = json.loads(path.read_bytes())
        json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        if not isinstance(document, dict):
            raise BaseRefused("not a JSON object")
        _check_keys(document)
        base = codec.decode(Base, document, camel=True)
        return replace(base, hooks=checked(base.hooks))
    except RecursionError:
        raise BaseRefused(f"base_runtime_spec {path}: nested too deeply") from None
    except OSError as error:
        raise BaseRefused(f"base_runtime_spec {path}: {error.strerror}") from error
    except (ValueError, InvalidSpec) as error:
        raise BaseRefused(f"base_runtime_spec {path}: {error}") from error


def _check_keys(document: Mapping[str, object]) -> None:
    for key, value in document.items():
        inner = value if key in ("process", "linux") and isinstance(value, dict) else {}
        for path in [f"{key}.{name}" for name in inner] or [key]:
            if path not in _DECIDED | _TAKEN | {"process", "linux"}:
                raise BaseRefused(f"{path}: nobody would honour it; take it out")


def spec_annotations(subject: Subject) -> Mapping[str, str]:
    """Those of the handler, and of pod and container those that may reach the spec."""
    config, container = subject.handler.config, subject.config
    found = {
        **_of_pods(subject.handler, subject.sandbox),
        **_allowed(config.container_annotations, container.annotations),
    }
    if config.type != SHIM:
        return found
    told = {"container-name": container.metadata.name, "image-name": container.image.image}
    return {**found, **_of_shims(subject.sandbox), **_named(told)}


def sandbox_annotations(
    handler: RuntimeHandler, sandbox: api.PodSandboxConfig
) -> Mapping[str, str]:
    """The same, of the sandbox that a shim makes of the pod."""
    return {**_of_pods(handler, sandbox), **_of_shims(sandbox)}


def _of_pods(handler: RuntimeHandler, sandbox: api.PodSandboxConfig) -> Mapping[str, str]:
    config = handler.config
    return {
        **handler.base.annotations,
        **config.default_annotations,
        **_allowed(config.pod_annotations, sandbox.annotations),
    }


def _allowed(patterns: tuple[str, ...], given: Mapping[str, str]) -> Mapping[str, str]:
    return {
        key: value
        for key, value in given.items()
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
    }


def _of_shims(sandbox: api.PodSandboxConfig) -> Mapping[str, str]:
    """What containerd tells its shims of a pod, by its names: nobody else may set them."""
    pod, resources = sandbox.metadata, sandbox.linux.resources
    told = {
        "sandbox-name": pod.name,
        "sandbox-namespace": pod.namespace,
        "sandbox-uid": pod.uid,
    }
    if resources.ByteSize():  # all containers' together: how large a machine has to be
        told["sandbox-cpu-period"] = str(resources.cpu_period)
        told["sandbox-cpu-quota"] = str(resources.cpu_quota)
        told["sandbox-cpu-shares"] = str(resources.cpu_shares)
        told["sandbox-memory"] = str(resources.memory_limit_in_bytes)
    return _named(told)


def _named(told: Mapping[str, str]) -> Mapping[str, str]:
    return {f"io.kubernetes.cri.{key}": value for key, value in told.items() if value}


def completed(spec: Spec, subject: Subject) -> Spec:
    """A spec with what its handler adds; mounts are merged where they are made."""
    base = subject.handler.base
    spec = replace(spec, annotations=spec_annotations(subject))
    if base == Base():
        return spec
    hides = not subject.security.privileged
    return replace(
        spec,
        process=_process(spec.process, base.process),
        hooks=base.hooks,
        linux=_linux(spec.linux, base.linux, hides=hides),
    )


def _process(process: Process, base: BaseProcess) -> Process:
    names = {item.partition("=")[0] for item in process.env}
    env = tuple(item for item in base.env if item.partition("=")[0] not in names)
    return replace(process, env=(*env, *process.env), rlimits=base.rlimits)


def _linux(linux: Linux, base: BaseLinux, *, hides: bool) -> Linux:
    ours = {device.path for device in linux.devices}
    devices = (device for device in base.devices if device.path not in ours)
    return replace(
        linux,
        devices=(*devices, *linux.devices),
        resources=_resources(linux.resources, base.resources),
        masked_paths=_union(linux.masked_paths, base.masked_paths if hides else ()),
        readonly_paths=_union(linux.readonly_paths, base.readonly_paths if hides else ()),
    )


def _resources(asked: Resources, base: Resources) -> Resources:
    rules = (*asked.devices, *(rule for rule in base.devices if rule.allow))
    return replace(filled(asked, base), devices=rules)


def _union(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*ours, *theirs)))
