"""A CRI sandbox as what the runtime makes of it, and the files that its containers share. Pure."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from cri.specgen.namespaces import user_map
from network.result import PortMapping
from runtime.cgroup import units
from runtime.lifecycle import SandboxRequest

if TYPE_CHECKING:
    from cri.config import ContainersConfig

_OPTIONS = "config.linux.security_context.namespace_options"
_LAST_GROUP = 2**31 - 1  # as far as ping_group_range goes
HOSTNAME_BYTES = 64  # HOST_NAME_MAX
NAME_BYTES = 255  # NAME_MAX
_PID = {api.POD: "pod", api.CONTAINER: "container", api.NODE: "node"}
_PROTOCOLS = {api.TCP: "tcp", api.UDP: "udp", api.SCTP: "sctp"}

# Of a namespace, so safe to set in a pod's; by which of them the sysctl belongs to.
_NETWORK_SYSCTLS = ("net.",)
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


@dataclass(frozen=True, slots=True)
class Node:
    """What of the node a sandbox falls back to: its name and the texts of its files."""

    hostname: str
    hosts: str = ""
    resolv_conf: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What of the configuration goes into a sandbox."""

    containers: ContainersConfig
    cgroup_parent: str = field(default="/podwright")
    systemd: bool = False


def check(config: api.PodSandboxConfig) -> None:
    """Raises InvalidRequest, NotImplementedYet for what no sandbox can be made of."""
    if not config.HasField("metadata") or not config.metadata.name:
        raise InvalidRequest("config.metadata.name", "empty")
    if not config.metadata.uid:
        raise InvalidRequest("config.metadata.uid", "empty")
    options = config.linux.security_context.namespace_options
    _check_user_namespace(options)
    if options.pid not in _PID:
        raise InvalidRequest(f"{_OPTIONS}.pid", "TARGET makes sense for a container only")
    for name, mode in (("network", options.network), ("ipc", options.ipc)):
        if mode not in (api.POD, api.NODE):
            raise InvalidRequest(
                f"{_OPTIONS}.{name}", f"{api.NamespaceMode.Name(mode)}: must be POD or NODE"
            )
    if not _is_one_line(config.hostname):
        raise InvalidRequest("config.hostname", f"{config.hostname!r} has control characters")
    if len(config.hostname.encode()) > HOSTNAME_BYTES:
        raise InvalidRequest(
            "config.hostname", f"{config.hostname!r} has more than {HOSTNAME_BYTES} bytes"
        )


def _check_user_namespace(options: api.NamespaceOption) -> None:
    if user_map(options, _OPTIONS) is None:
        return
    for name, mode in (("pid", options.pid), ("ipc", options.ipc)):
        if mode == api.NODE:
            raise InvalidRequest(
                f"{_OPTIONS}.{name}", "NODE: a pod with users of its own has this of its own too"
            )


def request(
    sandbox_id: str, config: api.PodSandboxConfig, defaults: Defaults, node: Node
) -> SandboxRequest:
    """What the runtime is asked for; `check` has passed."""
    options = config.linux.security_context.namespace_options
    return SandboxRequest(
        sandbox_id=sandbox_id,
        hostname=hostname(config, node),
        network="node" if options.network == api.NODE else "pod",
        ipc="node" if options.ipc == api.NODE else "pod",
        pid=_PID[options.pid],
        sysctls=sysctls(config, defaults.containers),
        cgroup_parent=cgroup_parent(sandbox_id, config, defaults),
        shm_bytes=defaults.containers.shm_bytes,
        user_map=user_map(options, _OPTIONS),
    )


def hostname(config: api.PodSandboxConfig, node: Node) -> str:
    """The pod's name for itself: the node's, where it says nothing."""
    return config.hostname or node.hostname


def cgroup_parent(sandbox_id: str, config: api.PodSandboxConfig, defaults: Defaults) -> str:
    """Where the pod's cgroups go: kubelet says, in cgroupfs's words; else one of our own."""
    parent = config.linux.cgroup_parent
    if defaults.systemd:
        return _slice(sandbox_id, parent, defaults)
    if not parent:
        return f"{defaults.cgroup_parent}/{sandbox_id}"
    if parent.endswith(".slice"):
        raise InvalidRequest(
            "config.linux.cgroup_parent",
            f"{parent!r} is a systemd slice, but podwright manages cgroups by itself: set "
            "cgroupDriver: cgroupfs in kubelet's configuration",
        )
    parts = [part for part in parent.split("/") if part]
    if not parts or not all(map(_is_cgroup, parts)):
        raise InvalidRequest("config.linux.cgroup_parent", f"{parent!r} is no path of a cgroup")
    return "/" + "/".join(parts)


def _slice(sandbox_id: str, parent: str, defaults: Defaults) -> str:
    """kubelet names the pod's slice by its path; others by its name alone."""
    if not parent:
        return units.pod_slice(defaults.cgroup_parent, sandbox_id)
    name = parent.rstrip("/").rpartition("/")[2]
    remedy = "kubelet says so by itself if cgroupDriver is systemd, or is not set"
    try:
        path = units.slice_path(name)
    except ValueError as error:
        text = f"{parent!r}: podwright has systemd make cgroups here, but {error}: {remedy}"
        raise InvalidRequest("config.linux.cgroup_parent", text) from None
    if parent.strip("/") not in (name, path.strip("/")):
        raise InvalidRequest(
            "config.linux.cgroup_parent", f"{parent!r}: systemd would have {name} at {path}"
        )
    return path


def _is_cgroup(part: str) -> bool:
    return part not in (".", "..") and _is_one_line(part) and len(part.encode()) <= NAME_BYTES


def _is_one_line(text: str) -> bool:
    """Neither newline nor NUL nor any other control character."""
    return not any(unicodedata.category(character) == "Cc" for character in text)


def sysctls(config: api.PodSandboxConfig, containers: ContainersConfig) -> Mapping[str, str]:
    """The request's, over defaults that let a pod of its own network do what is harmless there."""
    options = config.linux.security_context.namespace_options
    found: dict[str, str] = {}
    if options.network != api.NODE:
        found["net.ipv6.conf.default.accept_ra"] = "0"  # a neighbour is no router
        if containers.unprivileged_ports:
            found["net.ipv4.ip_unprivileged_port_start"] = "0"
        if containers.unprivileged_ping:
            pod = user_map(options, _OPTIONS)
            last = min(pod.gids - 1, _LAST_GROUP) if pod else _LAST_GROUP
            found["net.ipv4.ping_group_range"] = f"0 {last}"
    for name, value in config.linux.sysctls.items():
        _check_sysctl(name, options)
        if "\0" in value:
            raise InvalidRequest("config.linux.sysctls", f"{name}: contains a NUL byte")
        found[name] = value
    return found


def _check_sysctl(name: str, options: api.NamespaceOption) -> None:
    dotted = name.replace("/", ".")
    if "" in dotted.split(".") or not _is_one_line(name):
        raise InvalidRequest("config.linux.sysctls", f"{name!r} can't be the name of a sysctl")
    for prefixes, mode, what in (
        (_NETWORK_SYSCTLS, options.network, "network"),
        (_IPC_SYSCTLS, options.ipc, "ipc"),
    ):
        if dotted.startswith(prefixes):
            if mode == api.NODE:
                raise InvalidRequest(
                    "config.linux.sysctls",
                    f"{name}: the pod has the node's {what} namespace and may not change it",
                )
            return
    allowed = ", ".join(f"{prefix}*" for prefix in (*_NETWORK_SYSCTLS, *_IPC_SYSCTLS))
    raise InvalidRequest(
        "config.linux.sysctls", f"{name} belongs to the node, not to a pod; allowed: {allowed}"
    )


def ports(config: api.PodSandboxConfig) -> tuple[PortMapping, ...]:
    """The host ports that are asked for; those without one ask for nothing."""
    return tuple(
        PortMapping(
            host_port=port.host_port,
            container_port=port.container_port,
            protocol=_PROTOCOLS[port.protocol],
            host_ip=port.host_ip,
        )
        for port in config.port_mappings
        if port.host_port > 0
    )


def files(config: api.PodSandboxConfig, node: Node) -> Mapping[str, str]:
    """What the containers find in /etc, by name, unless a request mounts something there."""
    return {
        "hostname": f"{hostname(config, node)}\n",
        "hosts": node.hosts,
        "resolv.conf": resolv_conf(config.dns_config) or node.resolv_conf,
    }


def resolv_conf(dns: api.DNSConfig) -> str:
    """resolv.conf(5); "" if nothing was asked for."""
    for name, words in (
        ("servers", dns.servers),
        ("searches", dns.searches),
        ("options", dns.options),
    ):
        for word in words:
            if not word or any(character.isspace() for character in word):
                raise InvalidRequest(f"config.dns_config.{name}", f"{word!r} is not one word")
    for server in dns.servers:
        _check_address(server)
    lines = []
    if dns.searches:
        lines.append(f"search {' '.join(dns.searches)}\n")
    lines += [f"nameserver {server}\n" for server in dns.servers]
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}\n")
    return "".join(lines)


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise InvalidRequest(
            "config.dns_config.servers", f"{text!r} is no IPv4 or IPv6 address"
        ) from None
