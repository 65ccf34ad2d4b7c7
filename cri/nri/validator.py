"""What the node's configuration forbids plugins, and which plugins a container must have. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cri.errors import AdjustmentRefused, InvalidRequest
from cri.nri.adjustments import HOOKS
from cri.nri.api import nri_pb2 as nri

if TYPE_CHECKING:
    from cri.nri.adjustments import Adjustments
    from cri.plugin_config import ValidatorConfig

REQUIRED = "required-plugins.noderesource.dev"
_SECCOMP = {
    nri.SecurityProfile.RUNTIME_DEFAULT: "reject_runtime_default_seccomp_adjustment",
    nri.SecurityProfile.UNCONFINED: "reject_unconfined_seccomp_adjustment",
    nri.SecurityProfile.LOCALHOST: "reject_custom_seccomp_adjustment",
}


def check(config: ValidatorConfig, adjustments: Adjustments, plugins: set[str]) -> None:
    """plugins: names of those that were asked. Raises AdjustmentRefused, InvalidRequest."""
    for problem in (*_forbidden(config, adjustments), *_missing(config, adjustments, plugins)):
        raise AdjustmentRefused(f"[nri.default_validator]: {problem}")


def _forbidden(config: ValidatorConfig, adjustments: Adjustments) -> Iterator[str]:
    merged, owners = adjustments.merged, adjustments.owners
    container = adjustments.request.container
    if config.reject_oci_hook_adjustment and any(getattr(merged.hooks, name) for name in HOOKS):
        who = owners.of(container.id, nri.OciHooks)
        yield f"NRI plugin {who} adds hooks, which reject_oci_hook_adjustment forbids"
    if merged.linux.HasField("seccomp_policy"):
        profile = nri.SecurityProfile.UNCONFINED
        if container.linux.HasField("seccomp_profile"):
            profile = container.linux.seccomp_profile.profile_type
        if getattr(config, _SECCOMP[profile]):
            who = owners.of(container.id, nri.SeccompPolicy)
            yield f"NRI plugin {who} sets a seccomp policy, which {_SECCOMP[profile]} forbids"
    for key, field in (
        ("reject_namespace_adjustment", nri.Namespace),
        ("reject_sysctl_adjustment", nri.Sysctl),
    ):
        if getattr(config, key):
            for entry, who in owners.entries(container.id, field).items():
                what = f"{nri.Field.Name(field)} {entry}"
                yield f"NRI plugin {who} changes {what}, which {key} forbids"


def _missing(config: ValidatorConfig, adjustments: Adjustments, plugins: set[str]) -> Iterator[str]:
    annotations = adjustments.request.pod.annotations
    container = adjustments.request.container.name
    tolerated = config.tolerate_missing_plugins_annotation
    if tolerated and _effective(annotations, tolerated, container).lower() in ("true", "1", "t"):
        return
    required = [*config.required_plugins, *_annotated(annotations, container)]
    missing = sorted(set(required) - plugins)
    if missing:
        yield f"required NRI plugins are not connected: {', '.join(missing)}"


def _annotated(annotations: Mapping[str, str], container: str) -> list[str]:
    text = _effective(annotations, REQUIRED, container)
    if not text:
        return []
    import yaml  # 8 ms, and few pods say so

    try:
        names: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(
            f"sandbox_config.annotations[{REQUIRED}]", f"no YAML: {error}"
        ) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest(f"sandbox_config.annotations[{REQUIRED}]", "no list of names")
    return names


def _effective(annotations: Mapping[str, str], name: str, container: str) -> str:
    """That of the container, of the pod, or the plain one, in this order."""
    for place in (f"{name}/container.{container}", f"{name}/pod", name):
        if place in annotations:
            return annotations[place]
    return ""
