"""Hooks as values: checked by the daemon, run by the monitor. Pure.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.errors import InvalidSpec
from runtime.init.process_plan import checked_text
from runtime.init.values import ContainerPlan
from runtime.spec import Hook

Hooks = Mapping[str, tuple[Hook, ...]]
BEFORE_START = ("prestart", "createRuntime", "createContainer")  # in this order
START, POSTSTART, POSTSTOP = "startContainer", "poststart", "poststop"
STAGES = (*BEFORE_START, START, POSTSTART, POSTSTOP)
_VERSION = "1.3.0"  # of the specification that the state is of


@dataclass(frozen=True, slots=True)
class HookPlan:
    """What the monitor needs. place: where the bundle is mounted, unseen by the node."""

    place: str
    hooks: Hooks
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HookedPlan:
    """A container with hooks. config: config.json for them to read, as text, not final."""

    container: ContainerPlan
    hooks: HookPlan
    config: str


def checked(hooks: Hooks) -> Hooks:
    """Those that there are. Raises InvalidSpec for what can't be run."""
    for stage, listed in hooks.items():
        if stage not in STAGES:
            raise InvalidSpec(f"hooks.{stage}", f"no such hook: there are {', '.join(STAGES)}")
        for index, hook in enumerate(listed):
            _check(hook, f"hooks.{stage}[{index}]")
    return {stage: listed for stage, listed in hooks.items() if listed}


def _check(hook: Hook, path: str) -> None:
    if not hook.path.startswith("/"):
        raise InvalidSpec(f"{path}.path", f'"{hook.path}" is not absolute')
    for name, texts in (("path", (hook.path,)), ("args", hook.args), ("env", hook.env)):
        for text in texts:
            checked_text(text, f"{path}.{name}")
    for item in hook.env:
        if item.find("=") < 1:
            raise InvalidSpec(f"{path}.env", f'"{item}" is not of the form NAME=value')
    if hook.timeout is not None and hook.timeout <= 0:
        raise InvalidSpec(f"{path}.timeout", f"{hook.timeout} is not above 0 (seconds)")


def state(container_id: str, status: str, pid: int, plan: HookPlan) -> bytes:
    """What a hook reads from its stdin. pid: as it sees it; 0: the container has none."""
    said: dict[str, object] = {"ociVersion": _VERSION, "id": container_id, "status": status}
    if pid:
        said["pid"] = pid
    said["bundle"] = plan.place
    said["annotations"] = dict(plan.annotations)
    return json.dumps(said).encode()
