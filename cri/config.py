"""Configuration: TOML files in, a frozen Config out. The only reader of configuration.

`podwright.toml` and, beside it, `conf.d/*.toml` in lexical order: a later file wins, key by key. An
unknown key, a wrong type or a value that can't be is an error which names file and line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cri.endpoint import Endpoint
from cri.toml_lines import Key, line_of
from network.config import check_interface_name, parse_subnet

DEFAULT_FILE = Path("/etc/podwright/podwright.toml")

T = TypeVar("T")
Check = Callable[[T], str]  # "": good; else what is wrong with the value


class ConfigError(Exception):
    """A configuration that can't be used: `file:line: what, and the remedy`."""

    def __init__(self, source: Path | str, line: int, text: str) -> None:
        super().__init__(f"{source}:{line}: {text}" if line else f"{source}: {text}")
        self.line = line


def _absolute(value: str) -> str:
    return "" if value.startswith("/") else "must be an absolute path"


def _absolute_or_empty(value: str) -> str:
    return _absolute(value) if value else ""


def _address(value: str) -> str:
    known = not value or re.fullmatch(r"unix:/.+|unix-abstract:.+|unix://@.+", value)
    return "" if known else "must be unix:///path/to/socket or unix-abstract:name"


def _one_of(*choices: str) -> Check[str]:
    return lambda value: "" if value in choices else f"must be one of {', '.join(choices)}"


def _between(low: int, high: int) -> Check[int]:
    return lambda value: "" if low <= value <= high else f"must be from {low} to {high}"


def _mtu(value: int) -> str:
    return "" if value == 0 or 1280 <= value <= 65535 else "must be 0 or from 1280 to 65535"


def _interface(value: str) -> str:
    try:
        check_interface_name("bridge", value)
    except ValueError as error:
        return str(error)
    return ""


def _subnets(value: tuple[str, ...]) -> str:
    try:
        versions = [parse_subnet(subnet).version for subnet in value]
    except ValueError as error:
        return f"{error}; write it as 10.87.0.0/16"
    good = versions and len(set(versions)) == len(versions)
    return "" if good else "name one IPv4 subnet, one IPv6 subnet, or one of each"


def _hosts(value: tuple[str, ...]) -> str:
    bad = [host for host in value if not re.fullmatch(r"[\w.\[\]:-]+", host)]
    return f"{bad[0]!r} is no host[:port]" if bad else ""


def _endpoint(value: str) -> str:
    try:
        Endpoint.parse(value)
    except ValueError as error:
        return str(error)
    return ""


def _cgroup_parent(value: str) -> str:
    good = value.startswith("/") and value != "/" and ".." not in value.split("/")
    if good and not value.endswith("/") and re.fullmatch(r"[\w:./-]+", value, re.ASCII):
        return ""
    return "must be an absolute cgroup path beneath the root, such as /podwright"


def key(default: T, doc: str, check: Check[T] | None = None) -> T:
    """A configuration key: its default, its meaning, and a check of its value."""
    made: T = field(default=default, metadata={"doc": doc, "check": check})
    return made


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    enabled: bool = key(
        default=False,
        doc="The built-in pod network: bridge, addresses, masquerade, host ports. "
        "Leave it off where a CNI plugin is in charge.",
    )
    bridge: str = key("podwright0", "The bridge on which pods sit; made when needed.", _interface)
    subnets: tuple[str, ...] = key(
        ("10.87.0.0/16",), "Where pod addresses come from: one IPv4, one IPv6, or both.", _subnets
    )
    mtu: int = key(0, "MTU of the pods' interfaces; 0: that of the default route.", _mtu)
    masquerade: bool = key(
        default=True,
        doc="Pods reach the world under the node's address.",
    )
    cni_conf_dir: str = key("/etc/cni/net.d", "Where CNI configurations are looked for.", _absolute)
    cni_bin_dir: str = key("/opt/cni/bin", "Where CNI plugins are looked for.", _absolute)


@dataclass(frozen=True, slots=True)
class ImagesConfig:
    hosts_dir: str = key(
        "/etc/containerd/certs.d",
        "Registries and mirrors: <directory>/<host[:port]>/hosts.toml, in containerd's format; "
        "read at each pull. Empty: none.",
        _absolute_or_empty,
    )
    insecure_hosts: tuple[str, ...] = key(
        (),
        "host[:port] of registries to be spoken to by plain HTTP. Loopback ones always may.",
        _hosts,
    )
    parallel_layers: int = key(
        0, "Layers that download and unpack at a time; 0: one a core, 2 to 4.", _between(0, 64)
    )
    progress_timeout: int = key(
        300, "Seconds without a byte after which a pull is given up.", _between(1, 86400)
    )
    pinned: tuple[str, ...] = key(
        (), "Patterns (registry.example/base/*) of images that kubelet must not remove."
    )
    keep_blobs: bool = key(
        default=False,
        doc="Keep compressed layers after they are unpacked.",
    )


@dataclass(frozen=True, slots=True)
class CgroupConfig:
    driver: str = key(
        "auto",
        "Who makes cgroups: cgroupfs (podwright itself), systemd (asked by podwright), or auto: "
        "systemd where it is the node's init. kubelet asks for it and follows.",
        _one_of("auto", "cgroupfs", "systemd"),
    )
    parent: str = key(
        "/podwright",
        "Parent of the pods that name none (kubelet always does). With systemd, /a/b is the slice "
        "a-b.slice.",
        _cgroup_parent,
    )


@dataclass(frozen=True, slots=True)
class ContainersConfig:
    seccomp_profile: str = key(
        "",
        "A seccomp profile (OCI JSON) to be used for RuntimeDefault; empty: the built-in one.",
        _absolute_or_empty,
    )
    unprivileged_ports: bool = key(
        default=True,
        doc="Pods may listen on ports below 1024 without a capability.",
    )
    unprivileged_ping: bool = key(
        default=True,
        doc="Pods may ping without a capability.",
    )
    shm_bytes: int = key(
        64 << 20, "Size of /dev/shm, which a pod's containers share.", _between(4096, 1 << 50)
    )


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    address: str = key(
        "127.0.0.1:0",
        "Where exec, attach and port-forward are served; port 0: any. Not loopback: needs TLS.",
        _endpoint,
    )
    idle_timeout: int = key(14400, "Seconds of silence that end a stream.", _between(1, 604800))
    creation_timeout: int = key(
        30, "Seconds that a client has to open its channels.", _between(1, 3600)
    )
    tls_cert_file: str = key("", "PEM; read again when it changes.", _absolute_or_empty)
    tls_key_file: str = key("", "PEM; goes with tls_cert_file.", _absolute_or_empty)
    client_ca_file: str = key("", "PEM: clients must be certified by it.", _absolute_or_empty)

    def problem(self) -> tuple[str, str]:
        """A key that does not go with the others, and why; empty: all go together."""
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            missing = "tls_key_file" if self.tls_cert_file else "tls_cert_file"
            return missing, "is missing: certificate and key go together"
        if self.client_ca_file and not self.tls_cert_file:
            return "client_ca_file", "is of use only with tls_cert_file and tls_key_file"
        if not self.tls_cert_file and not Endpoint.parse(self.address).loopback:
            text = f"= {self.address!r}: can be reached from elsewhere, so it needs "
            return "address", text + "tls_cert_file and tls_key_file; or use 127.0.0.1:0"
        return "", ""


@dataclass(frozen=True, slots=True)
class EmbeddedHandler:
    """The runtime which is part of podwright. It has no keys."""


@dataclass(frozen=True, slots=True)
class HandlersConfig:
    podwright: EmbeddedHandler = field(
        default_factory=EmbeddedHandler,
        metadata={"doc": "The embedded runtime: also what a pod without a RuntimeClass gets."},
    )


@dataclass(frozen=True, slots=True)
class Config:
    root: str = key("/var/lib/podwright", "What survives a reboot: images, records.", _absolute)
    state: str = key("/run/podwright", "What describes this boot; a tmpfs.", _absolute)
    address: str = key("", "Where CRI is served; empty: unix://<state>/podwright.sock.", _address)
    log_level: str = key(
        "info",
        "debug shows every request, info those that change something. Read again on SIGHUP.",
        _one_of("debug", "info", "warning", "error"),
    )
    netns_dir: str = key(
        "/run/netns", "Where pods' network namespaces are pinned (cni-<sandbox id>).", _absolute
    )
    network: NetworkConfig = field(
        default_factory=NetworkConfig, metadata={"doc": "The built-in pod network."}
    )
    images: ImagesConfig = field(
        default_factory=ImagesConfig, metadata={"doc": "Pulling and keeping images."}
    )
    cgroup: CgroupConfig = field(default_factory=CgroupConfig, metadata={"doc": "Control groups."})
    containers: ContainersConfig = field(
        default_factory=ContainersConfig, metadata={"doc": "What containers get by default."}
    )
    streaming: StreamingConfig = field(
        default_factory=StreamingConfig, metadata={"doc": "Exec, attach and port-forward."}
    )
    handlers: HandlersConfig = field(
        default_factory=HandlersConfig, metadata={"doc": "Runtimes, by RuntimeClass handler."}
    )

    @property
    def handler_names(self) -> tuple[str, ...]:
        """Runtime handlers that a sandbox may ask for; "" is the default one."""
        return ("", *(item.name for item in dataclasses.fields(self.handlers)))

    @property
    def endpoint(self) -> str:
        """The address at which CRI is served."""
        return self.address or f"unix://{self.state}/podwright.sock"


def load(file: Path | None = None) -> Config:
    """The configuration of a file and its drop-ins. Raises ConfigError.

    Without a file: the default one, and if that is not there, the defaults.
    """
    if file is None and not DEFAULT_FILE.exists():
        return Config()
    file = file or DEFAULT_FILE
    sources = [file, *sorted((file.parent / "conf.d").glob("*.toml"))]
    config = Config()
    for source in sources:
        config = parse(_read(source), source, base=config)
    name, problem = config.streaming.problem()
    if problem:
        raise ConfigError(*_where(sources, name), f"streaming.{name} {problem}")
    return config


def _where(sources: Sequence[Path], name: str) -> tuple[Path, int]:
    """The last file and line that sets a key of [streaming], or the last that has the table."""
    for path in (("streaming", name), ("streaming",)):
        for source in reversed(sources):
            if line := line_of(_read(source), path):
                return source, line
    return sources[0], 0


def parse(text: str, source: Path | str = "<text>", *, base: Config | None = None) -> Config:
    """`base`, or the defaults, changed by the keys of a TOML text. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at line (\d+), column \d+\)| \(at end of document\)", str(error))
        line = int(where[1]) if where and where[1] else len(text.splitlines())
        message = str(error)[: where.start()] if where else str(error)
        raise ConfigError(source, line, f"not TOML: {message}") from None
    for path, problem in _problems(Config, data, ()):
        raise ConfigError(source, line_of(text, path), problem)
    return _apply(base or Config(), data)


def override(config: Config, **values: str | None) -> Config:
    """The configuration with top-level keys replaced by options of the command line."""
    given = {name: value for name, value in values.items() if value is not None}
    for path, problem in _problems(Config, given, ()):
        raise ConfigError(f"--{path[0].replace('_', '-')}", 0, problem)
    return _apply(config, given)


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(source, 0, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        line = source.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(source, line, "not UTF-8") from None


def _problems(cls: type, data: Mapping[str, object], path: Key) -> Iterator[tuple[Key, str]]:
    """What is wrong with a table: the key, and a sentence with its remedy."""
    hints = typing.get_type_hints(cls)
    known = {item.name: item for item in dataclasses.fields(cls)}
    for name, value in data.items():
        here = (*path, name)
        if name not in known:
            yield here, _unknown(here, list(known))
            continue
        hint, check = hints[name], known[name].metadata.get("check")
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if isinstance(value, dict):
                yield from _problems(hint, value, here)
            else:
                yield here, f"{'.'.join(here)}: is a table: write [{'.'.join(here)}]"
        elif not _is(value, hint):
            yield here, f"{'.'.join(here)}: expected {_NAMES[hint]}, got {value!r}"
        elif check is not None and (problem := check(_plain(value))):
            yield here, f"{'.'.join(here)} = {value!r}: {problem}"


_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    tuple[str, ...]: "a list of strings",
}


def _is(value: object, hint: object) -> bool:
    if hint == tuple[str, ...]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) is hint  # not isinstance: true is no whole number


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _unknown(path: Key, known: Sequence[str]) -> str:
    name = ".".join(path)
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
    if near:
        return f"unknown key {name}: did you mean {'.'.join((*path[:-1], near[0]))}?"
    where = f"[{'.'.join(path[:-1])}]" if path[:-1] else "the top level"
    return f"unknown key {name}: {where} knows {', '.join(known) or 'no keys'}"


def _apply(base: T, data: Mapping[str, object]) -> T:
    """`base`, a dataclass, with the checked values of a table."""
    changes: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            changes[name] = _apply(getattr(base, name), value)
        else:
            changes[name] = _plain(value)
    made: T = dataclasses.replace(base, **changes)  # type: ignore[type-var]  # T is a dataclass here
    return made
