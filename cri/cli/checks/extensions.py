"""What a node adds to pods: devices by name, classes of block I/O, plugins."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from cri import blockio
from cri.api import api_pb2 as api
from cri.cdi import registry
from cri.cli.checks.finding import Finding, Place, note, ok, warn
from cri.cli.client import CallFailed, Client
from cri.errors import InvalidRequest, WrongState
from cri.nri import launch

PATIENCE = 5.0
SOCKET_REMEDY = "[nri] socket: name one that is free, or none"


def named_devices(place: Place) -> Iterator[Finding]:
    """The files that describe devices by name (CDI) can be read; most nodes have none."""
    found = registry.read(place.config.devices.cdi_spec_dirs)
    where = ", ".join(place.config.devices.cdi_spec_dirs) or "no directory"
    yield ok("devices", f"{found.count()} by name (CDI) in {where}")
    for file in found.broken():
        remedy = "mend it, or remove it: its devices can't be had"
        yield warn("devices", f"{file.path}: {file.problem}", remedy)


def block_io(place: Place) -> Iterator[Finding]:
    """Each class means something on this node; most nodes have none."""
    path = place.config.devices.blockio_config_file
    if not path:
        return
    about, good = "block I/O", []
    try:
        names = sorted(blockio.classes(Path(path)))
    except (OSError, ValueError) as error:
        remedy = "mend it, or take devices.blockio_config_file out: its classes can't be had"
        yield warn(about, f"{path}: {error}", remedy)
        return
    for name in names:
        try:
            blockio.resolve(name, "devices.blockio_config_file", path)
            good.append(name)
        except (InvalidRequest, WrongState) as error:
            yield warn(about, str(error), f"mend it in {path}: pods of this class are refused")
    yield ok(about, f"classes {', '.join(good) or 'none'} ({path})")


def installed_plugins(place: Place) -> Iterator[Finding]:
    """The node's own NRI plugins would be started."""
    config = place.config.nri
    directory = Path(config.plugin_path)
    if not config.enabled or not config.plugin_path or not directory.is_dir():
        return
    for path, why in launch.candidates(directory):
        if why:
            remedy = f"chown root {path}; chmod go-w {path}; or name it like 50-{path.name}"
            yield warn("plugins", why, remedy)
        else:
            yield ok("plugins", f"{path} is started with the daemon")


def plugins(place: Place) -> Iterator[Finding]:
    """Where NRI's plugins connect, and, if there is a daemon to say so, which are there."""
    config = place.config.nri
    if not config.enabled:
        yield ok("plugins", "none: NRI is switched off ([nri] enabled)")
        return
    told = _told(place)
    if told is None:
        yield from _socket(config.socket)
    elif told["problem"]:
        yield warn("plugins", told["problem"], SOCKET_REMEDY)
    else:
        names = [f"{one['index']}-{one['name']}" for one in told["plugins"]]
        where = f"NRI at {told['socket']}" if told["socket"] else "no NRI socket"
        yield ok("plugins", f"{', '.join(names) or 'none'}; {where}")


class Told(TypedDict):
    """Of NRI in verbose status: see `Nri.describe`."""

    socket: str
    problem: str
    plugins: list[dict[str, str]]


def _told(place: Place) -> Told | None:
    """What the daemon says of NRI; None: there is none to say it."""
    with Client(place.address) as client:
        try:
            request = api.StatusRequest(verbose=True)
            status = client.call("Status", request, api.StatusResponse, timeout=PATIENCE)
        except CallFailed:
            return None
    told: Told = json.loads(status.info["nri"])
    return told


def _socket(path: str) -> Iterator[Finding]:
    """Without a daemon of ours nobody should listen there."""
    if not path:
        yield ok("plugins", "none can connect: [nri] socket is empty")
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PATIENCE)
        if probe.connect_ex(path) == 0:
            yield warn("plugins", f"{path}: another runtime listens there", SOCKET_REMEDY)
            return
    above = Path(path).parent
    while not above.exists():
        above = above.parent
    if above.is_dir() and os.access(above, os.W_OK):
        yield ok("plugins", f"connect at {path} when the daemon runs")
    else:
        remedy = "[nri] socket: name a place where one can be made, or none"
        yield note("plugins", f"no socket can be made at {path}: see {above}", remedy)


CHECKS = (named_devices, block_io, installed_plugins, plugins)
