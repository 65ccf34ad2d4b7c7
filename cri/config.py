"""Configuration: TOML files in, a frozen Config out. The only reader of configuration.

`podwright.toml` and, beside it, `conf.d/*.toml` in lexical order: a later file wins, key by key. An
unknown key, a wrong type or a value that can't be is an error which names file and line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cri.endpoint import Endpoint
from cri.handlers import DEFAULT_HANDLER, EMBEDDED, HandlerConfig, handler_names
from cri.plugin_config import NriConfig
from cri.toml_lines import Key, line_of
from cri.toml_tables import (
    absolute,
    absolute_or_empty,
    applied,
    between,
    key,
    one_of,
    problems,
)
from network.config import check_interface_name, parse_subnet

DEFAULT_FILE = Path("/etc/podwright/podwright.toml")


class ConfigError(Exception):
    """A configuration that can't be used: `file:line: what, and the remedy`."""

    def __init__(self, source: Path | str, line: int, text: str) -> None:
        super().__init__(f"{source}:{line}: {text}" if line else f"{source}: {text}")
        self.line = line


def _address(value: str) -> str:
    known = not value or re.fullmatch(r"unix:/.+|unix-abstract:.+|unix://@.+", value)
    return "" if known else "must be unix:///path/to/socket or unix-abstract:name"


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
    cni_conf_dir: str = key("/etc/cni/net.d", "Where CNI configurations are looked for.", absolute)
    cni_bin_dir: str = key("/opt/cni/bin", "Where CNI plugins are looked for.", absolute)


@dataclass(frozen=True, slots=True)
class ImagesConfig:
    hosts_dir: str = key(
        "/etc/containerd/certs.d",
        "Registries and mirrors: <directory>/<host[:port]>/hosts.toml, in containerd's format; "
        "read at each pull. Empty: none.",
        absolute_or_empty,
    )
    insecure_hosts: tuple[str, ...] = key(
        (),
        "host[:port] of registries to be spoken to by plain HTTP. Loopback ones always may.",
        _hosts,
    )
    parallel_layers: int = key(
        0, "Layers that download and unpack at a time; 0: one a core, 2 to 4.", between(0, 64)
    )
    progress_timeout: int = key(
        300, "Seconds without a byte after which a pull is given up.", between(1, 86400)
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
        "systemd where it is the node's init, and cgroups are v2. kubelet asks for it and follows.",
        one_of("auto", "cgroupfs", "systemd"),
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
        absolute_or_empty,
    )
    apparmor_profile: str = key(
        "podwright-default",
        "The AppArmor profile for RuntimeDefault; the built-in one is loaded at start.",
        lambda value: "" if value else "must be the name of a profile",
    )
    selinux: str = key(
        "auto",
        "SELinux labels for pods: auto (where the kernel has SELinux on) or off. Pods keep what "
        "they were started with.",
        one_of("auto", "off"),
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
        64 << 20, "Size of /dev/shm, which a pod's containers share.", between(4096, 1 << 50)
    )


@dataclass(frozen=True, slots=True)
class DevicesConfig:
    cdi_spec_dirs: tuple[str, ...] = key(
        ("/etc/cdi", "/var/run/cdi"),
        "Where devices that are asked for by name (CDI) are described; the later directory wins.",
        lambda value: "" if all(one.startswith("/") for one in value) else "must be absolute paths",
    )
    blockio_config_file: str = key(
        "",
        "What each class of block I/O may have of which disk; empty: there are no classes.",
        absolute_or_empty,
    )


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    address: str = key(
        "127.0.0.1:0",
        "Where exec, attach and port-forward are served; port 0: any. Not loopback: needs TLS.",
        _endpoint,
    )
    idle_timeout: int = key(14400, "Seconds of silence that end a stream.", between(1, 604800))
    creation_timeout: int = key(
        30, "Seconds that a client has to open its channels.", between(1, 3600)
    )
    tls_cert_file: str = key("", "PEM; read again when it changes.", absolute_or_empty)
    tls_key_file: str = key("", "PEM; goes with tls_cert_file.", absolute_or_empty)
    client_ca_file: str = key("", "PEM: clients must be certified by it.", absolute_or_empty)

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
class RuntimeConfig:
    criu: str = key(
        "criu",
        "The program that writes and restores checkpoints: its name or its path. Looked for when "
        "it is first needed.",
        lambda value: "" if value else "must be the name or the path of a program",
    )
    handlers: Mapping[str, HandlerConfig] = field(
        default_factory=lambda: {DEFAULT_HANDLER: HandlerConfig()},
        metadata={
            "doc": "Runtimes, by the handler that a RuntimeClass names. `podwright` is also what a "
            "pod without a RuntimeClass gets.",
            "check": handler_names,
        },
    )


@dataclass(frozen=True, slots=True)
class Config:
    root: str = key("/var/lib/podwright", "What survives a reboot: images, records.", absolute)
    state: str = key("/run/podwright", "What describes this boot; a tmpfs.", absolute)
    address: str = key("", "Where CRI is served; empty: unix://<state>/podwright.sock.", _address)
    log_level: str = key(
        "info",
        "debug shows every request, info those that change something. Read again on SIGHUP.",
        one_of("debug", "info", "warning", "error"),
    )
    netns_dir: str = key(
        "/run/netns", "Where pods' network namespaces are pinned (cni-<sandbox id>).", absolute
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
    devices: DevicesConfig = field(
        default_factory=DevicesConfig, metadata={"doc": "Devices of the node."}
    )
    streaming: StreamingConfig = field(
        default_factory=StreamingConfig, metadata={"doc": "Exec, attach and port-forward."}
    )
    runtime: RuntimeConfig = field(
        default_factory=RuntimeConfig, metadata={"doc": "What runs containers."}
    )

    nri: NriConfig = field(
        default_factory=NriConfig, metadata={"doc": "The Node Resource Interface: plugins."}
    )

    @property
    def handlers(self) -> Mapping[str, HandlerConfig]:
        """What a sandbox may ask for; "" is the default one."""
        return {"": self.runtime.handlers[DEFAULT_HANDLER], **self.runtime.handlers}

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
    for path, problem in _contradictions(config):
        raise ConfigError(*_where(sources, path), f"{'.'.join(path)} {problem}")
    return config


def _contradictions(config: Config) -> Iterator[tuple[Key, str]]:
    """Keys that do not go with others of their table."""
    tables: dict[Key, StreamingConfig | HandlerConfig] = {("streaming",): config.streaming}
    tables |= {("runtime", "handlers", name): of for name, of in config.runtime.handlers.items()}
    for path, table in tables.items():
        name, problem = table.problem()
        if problem:
            yield (*path, name), problem
    if config.runtime.handlers[DEFAULT_HANDLER].type != EMBEDDED:
        path = ("runtime", "handlers", DEFAULT_HANDLER, "type")
        yield path, "must be podwright: give another runtime a name of its own"
    if config.root == config.state:
        yield ("state",), f"= {config.state!r}: must be another directory than `root`"


def _where(sources: Sequence[Path], path: Key) -> tuple[Path, int]:
    """The last file and line that sets a key, or the last that has its table."""
    for near in (path, path[:-1]):
        for source in reversed(sources):
            if line := line_of(_read(source), near):
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
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(source, 0, f"not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(source, 0, "not TOML: nested too deeply") from None
    for path, problem in problems(Config, data, ()):
        raise ConfigError(source, line_of(text, path), problem)
    return applied(base or Config(), data)


def override(config: Config, **values: str | None) -> Config:
    """The configuration with top-level keys replaced by options of the command line."""
    given = {name: value for name, value in values.items() if value is not None}
    for path, problem in problems(Config, given, ()):
        raise ConfigError(f"--{path[0].replace('_', '-')}", 0, problem)
    made = applied(config, given)
    for path, problem in _contradictions(made):
        raise ConfigError("the options", 0, f"{'.'.join(path)} {problem}")
    return made


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(source, 0, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        line = source.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(source, line, "not UTF-8") from None
