"""[nri]: plugins of the Node Resource Interface, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field

from cri.toml_tables import absolute, absolute_or_empty, between, key

_MOST_PATH = 107  # bytes of a unix socket's path


def _socket(value: str) -> str:
    if not value:
        return ""
    problem = absolute(value)
    if not problem and len(value.encode()) > _MOST_PATH:
        return f"is longer than a socket's path can be ({_MOST_PATH} bytes)"
    return problem


@dataclass(frozen=True, slots=True)
class ValidatorConfig:
    """containerd's keys: what no plugin may do, and which plugins there must be."""

    enable: bool = key(default=False, doc="Look at what plugins want before it is done.")
    reject_oci_hook_adjustment: bool = key(default=False, doc="Plugins add no hooks.")
    reject_runtime_default_seccomp_adjustment: bool = key(
        default=False, doc="No other seccomp policy where the pod has RuntimeDefault."
    )
    reject_unconfined_seccomp_adjustment: bool = key(
        default=False, doc="None where the pod has none, or Unconfined."
    )
    reject_custom_seccomp_adjustment: bool = key(
        default=False, doc="No other where the pod has a Localhost profile."
    )
    reject_namespace_adjustment: bool = key(default=False, doc="Plugins change no namespaces.")
    reject_sysctl_adjustment: bool = key(default=False, doc="Plugins set no sysctls.")
    required_plugins: tuple[str, ...] = key(
        (),
        "Plugins by name (without index) without which no container is made; pods may name more "
        "by the annotation required-plugins.noderesource.dev.",
    )
    tolerate_missing_plugins_annotation: str = key(
        "", "The annotation by which a pod says that it can do without them; empty: none can."
    )


@dataclass(frozen=True, slots=True)
class NriConfig:
    """Where plugins come from, and how long they are waited for."""

    enabled: bool = key(
        default=True, doc="Let plugins hear of pods and containers, and change them."
    )
    socket: str = key(
        "/var/run/nri/nri.sock",
        "Where plugins connect: containerd's place, which plugins know. Empty: none can.",
        _socket,
    )
    plugin_path: str = key(
        "/opt/nri/plugins",
        "Programs (NN-name) that are started with the daemon. Empty: none.",
        absolute_or_empty,
    )
    plugin_config_path: str = key(
        "/etc/nri/conf.d",
        "What these are told: NN-name.conf, or name.conf. Empty: nothing.",
        absolute_or_empty,
    )
    registration_timeout: int = key(
        5, "Seconds that a plugin has to register, and to be told what there is.", between(1, 120)
    )
    request_timeout: int = key(
        2, "Seconds for each of its answers; after that it is dropped.", between(1, 120)
    )
    default_validator: ValidatorConfig = field(
        default_factory=ValidatorConfig, metadata={"doc": "What plugins may not do."}
    )
