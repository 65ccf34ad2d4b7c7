"""A manifest's pod as a CRI sandbox: what kubelet would send with RunPodSandbox. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from cri.cli.pod.manifest import Fields, Problem
    from cri.cli.pod.volumes import PodDirectory

DIRECTORY = "podwright/directory"
"""Annotation: where `podwright run` keeps the pod's volumes and logs."""

GRACE = "io.kubernetes.pod.terminationGracePeriod"
"""Annotation, kubelet's own: seconds between the stop signal and SIGKILL."""

SECCOMP = {
    "": api.SecurityProfile.RuntimeDefault,
    "RuntimeDefault": api.SecurityProfile.RuntimeDefault,
    "Unconfined": api.SecurityProfile.Unconfined,
    "Localhost": api.SecurityProfile.Localhost,
}
SECCOMP_ROOT = Path("/var/lib/kubelet/seccomp")
"""What a localhostProfile is relative to, as with kubelet."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which pod it is."""

    name: str
    namespace: str
    uid: str

    @property
    def labels(self) -> dict[str, str]:
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.kubernetes.pod.uid": self.uid,
        }


def identity(metadata: Fields) -> Identity:
    """The pod's name, namespace and uid (a fresh one, unless the manifest has one)."""
    return Identity(
        metadata.text("name"),
        metadata.text("namespace", "default"),
        metadata.text("uid") or str(uuid.uuid4()),
    )


def namespaces(spec: Fields) -> api.NamespaceOption:
    """Which of the pod's namespaces are the node's."""
    pid = api.CONTAINER
    if spec.flag("shareProcessNamespace"):
        pid = api.POD
    if spec.flag("hostPID"):
        pid = api.NODE
    return api.NamespaceOption(
        network=api.NODE if spec.flag("hostNetwork") else api.POD,
        ipc=api.NODE if spec.flag("hostIPC") else api.POD,
        pid=pid,
    )


def config(pod: Fields, who: Identity, directory: PodDirectory) -> api.PodSandboxConfig:
    """The sandbox that the manifest describes."""
    spec, metadata = pod.inner("spec"), pod.inner("metadata")
    context = spec.inner("securityContext")
    host_network = spec.flag("hostNetwork")
    hostname = spec.text("hostname") or who.name[:63].rstrip("-.")
    made = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name=who.name, namespace=who.namespace, uid=who.uid),
        hostname="" if host_network else hostname,
        log_directory=str(directory.logs),
        dns_config=_dns(spec),
        port_mappings=[] if host_network else _ports(spec),
        labels={**metadata.table("labels"), **who.labels},
        annotations={**metadata.table("annotations"), DIRECTORY: str(directory.path)},
    )
    made.linux.sysctls.update({s.text("name"): s.text("value") for s in context.each("sysctls")})
    security = made.linux.security_context
    security.namespace_options.CopyFrom(namespaces(spec))
    security.privileged = any(
        container.inner("securityContext").flag("privileged")
        for container in (*spec.each("initContainers"), *spec.each("containers"))
    )
    security.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
    return made


def seccomp(fields: Fields) -> api.SecurityProfile:
    """A seccompProfile; absent means RuntimeDefault, as with kubelet's SeccompDefault."""
    kind, reference = fields.text("type"), fields.text("localhostProfile")
    return api.SecurityProfile(
        profile_type=SECCOMP.get(kind, api.SecurityProfile.RuntimeDefault),
        localhost_ref=str(SECCOMP_ROOT / reference) if reference else "",
    )


def _ports(spec: Fields) -> list[api.PortMapping]:
    return [
        api.PortMapping(
            protocol=port.text("protocol", "TCP"),
            container_port=port.number("containerPort"),
            host_port=port.number("hostPort"),
            host_ip=port.text("hostIP"),
        )
        for container in (*spec.each("initContainers"), *spec.each("containers"))
        for port in container.each("ports")
    ]


def _dns(spec: Fields) -> api.DNSConfig | None:
    """The pod's resolv.conf; None leaves it to the daemon, which copies the node's."""
    wanted, policy = spec.inner("dnsConfig"), spec.text("dnsPolicy", "Default")
    if policy != "None" and "dnsConfig" not in spec:
        return None
    node = api.DNSConfig() if policy == "None" else nodes_dns(Path("/etc/resolv.conf"))
    options = [
        option.text("name") + (f":{option.text('value')}" if "value" in option else "")
        for option in wanted.each("options")
    ]
    return api.DNSConfig(
        servers=[*wanted.texts("nameservers"), *node.servers],
        searches=[*wanted.texts("searches"), *node.searches],
        options=[*options, *node.options],
    )


def nodes_dns(path: Path) -> api.DNSConfig:
    """What the node's resolv.conf says; nothing if it has none."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            word, *rest = line.split() or [""]
            if word in found:
                found[word] = [*found[word], *rest] if word == "nameserver" else rest
    return api.DNSConfig(
        servers=found["nameserver"], searches=found["search"], options=found["options"]
    )


def problems(pod: Fields) -> list[Problem]:
    """What the types of the fields can't say: the rules that an API server would enforce here."""
    spec, metadata = pod.inner("spec"), pod.inner("metadata")
    found = []
    if not metadata.text("name"):
        found.append(metadata.problem("name" if "name" in metadata else "", "a pod needs a name"))
    if not spec.each("containers"):
        found.append(spec.problem("containers", "a pod needs at least one container"))
    context = spec.inner("securityContext")
    found += _unknown_words(
        (context.inner("seccompProfile"), "type", SECCOMP),
        (
            spec,
            "dnsPolicy",
            {"Default": 0, "None": 0, "ClusterFirst": 0, "ClusterFirstWithHostNet": 0},
        ),
    )
    names: set[str] = set()
    for container in (*spec.each("initContainers"), *spec.each("containers")):
        found += _container_problems(container, names)
    return found


def _container_problems(container: Fields, names: set[str]) -> list[Problem]:
    found = []
    name = container.text("name")
    if not name or "/" in name or name in (".", ".."):
        found.append(container.problem("name", f"{name!r} can't be a container's name"))
    if name in names:
        found.append(container.problem("name", f"there are two containers called {name}"))
    names.add(name)
    if not container.text("image"):
        found.append(container.problem("image", "a container needs an image"))
    found += _unknown_words(
        (container, "imagePullPolicy", {"": 0, "Always": 0, "IfNotPresent": 0, "Never": 0}),
        (container.inner("securityContext").inner("seccompProfile"), "type", SECCOMP),
    )
    for port in container.each("ports"):
        found += _unknown_words((port, "protocol", {"TCP": 0, "UDP": 0, "SCTP": 0}))
    return found


def _unknown_words(*fields: tuple[Fields, str, Mapping[str, object]]) -> list[Problem]:
    return [
        where.problem(name, f"{where.text(name)!r} is not one of {', '.join(filter(None, known))}")
        for where, name, known in fields
        if name in where and where.text(name) not in known
    ]
