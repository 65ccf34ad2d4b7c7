"""Devices that a container asks for by name: which ones, and what they change in its spec. Pure."""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING

from cri.cdi.injection import Injection, Request
from cri.cdi.spec import parse_name
from cri.errors import InvalidRequest
from cri.specgen import net_devices
from cri.specgen.resources import EVERYTHING
from runtime.spec import Hook, Linux, NetDevice, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cri.api import api_pb2 as api

ANNOTATION = "cdi.k8s.io/"
"""Before the name of an annotation whose value is a list of devices, with commas."""
MOST = 1024
"""Devices that a container may ask for."""


def requested(config: api.ContainerConfig) -> tuple[Request, ...]:
    """The field's devices, then those of the annotations. Raises InvalidRequest."""
    wanted = tuple(_named(config))
    if len(wanted) > MOST:
        raise InvalidRequest("config.CDI_devices", f"{len(wanted)} devices: {MOST} are allowed")
    for request in wanted:
        try:
            parse_name(request.name)
        except ValueError as error:
            raise InvalidRequest(request.field, str(error)) from error
    return wanted


def _named(config: api.ContainerConfig) -> Iterator[Request]:
    for index, device in enumerate(config.CDI_devices):
        yield Request(device.name, f"config.CDI_devices[{index}].name")
    for key in sorted(config.annotations):
        if key.startswith(ANNOTATION):
            for name in config.annotations[key].split(","):
                yield Request(name.strip(), f"config.annotations[{key}]")


def applied(spec: Spec, injection: Injection) -> Spec:
    """The spec with what the devices bring: of one place or name, theirs counts."""
    if injection == Injection():
        return spec
    process, linux = spec.process, spec.linux
    lookup = process.user_lookup
    if lookup is not None:
        groups = (*lookup.supplemental, *injection.additional_gids)
        lookup = dataclasses.replace(lookup, supplemental=tuple(dict.fromkeys(groups)))
    theirs = {_tidy(mount.destination) for mount in injection.mounts}
    mounts = [mount for mount in spec.mounts if _tidy(mount.destination) not in theirs]
    mounts += injection.mounts
    mounts.sort(key=lambda mount: _tidy(mount.destination).count("/"))
    rules = linux.resources.devices
    if EVERYTHING not in rules:
        rules = (*rules, *injection.device_rules)
    return dataclasses.replace(
        spec,
        process=dataclasses.replace(
            process, env=(*process.env, *injection.env), user_lookup=lookup
        ),
        mounts=tuple(mounts),
        hooks=_hooks(spec, injection),
        linux=dataclasses.replace(
            linux,
            devices=(*linux.devices, *injection.devices),
            net_devices={**linux.net_devices, **_net_devices(linux, injection)},
            resources=dataclasses.replace(linux.resources, devices=rules),
        ),
    )


def _net_devices(linux: Linux, injection: Injection) -> dict[str, NetDevice]:
    """Raises InvalidRequest."""
    wanted = {one.host_interface_name: one.name for one in injection.net_devices}
    problem = net_devices.problem(wanted, linux.namespaces)
    if len(wanted) < len(injection.net_devices):
        problem = "one interface would have two names"
    if problem:
        raise InvalidRequest("config.CDI_devices", f"{', '.join(wanted)}: {problem}")
    return {host: NetDevice(name) for host, name in wanted.items()}


def _hooks(spec: Spec, injection: Injection) -> dict[str, tuple[Hook, ...]]:
    """Of each kind the spec's own, and after them the devices'."""
    found = dict(spec.hooks)
    for hook in injection.hooks:
        made = Hook(hook.path, hook.args, hook.env, hook.timeout)
        found[hook.hook_name] = (*found.get(hook.hook_name, ()), made)
    return found


def _tidy(path: str) -> str:
    return posixpath.normpath("/" + path).replace("//", "/", 1)
