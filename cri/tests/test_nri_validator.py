"""What the node's configuration forbids plugins, and which of them it wants."""

from __future__ import annotations

import pytest

from cri.errors import AdjustmentRefused, InvalidRequest
from cri.nri import validator
from cri.nri.adjustments import Adjustments
from cri.nri.api import nri_pb2 as nri
from cri.plugin_config import ValidatorConfig
from cri.tests.test_nri_spec import linux


def judged(
    config: ValidatorConfig, adjust: nri.ContainerAdjustment, **annotations: str
) -> Adjustments:
    request = nri.CreateContainerRequest()
    request.container.id, request.container.name = "c1", "web"
    for key, value in annotations.items():
        request.pod.annotations[key.replace("__", "/").replace("_", ".")] = value
    merging = Adjustments(request)
    merging.add("10-a", nri.CreateContainerResponse(adjust=adjust))
    validator.check(config, merging, {"a"})
    return merging


POLICIES = nri.ContainerAdjustment(linux=linux(seccomp_policy=nri.LinuxSeccomp()))


@pytest.mark.parametrize(
    ("config", "adjust", "problem"),
    [
        (
            ValidatorConfig(reject_oci_hook_adjustment=True),
            nri.ContainerAdjustment(hooks=nri.Hooks(poststop=[nri.Hook(path="/x")])),
            "plugin 10-a adds hooks, which reject_oci_hook_adjustment forbids",
        ),
        (
            ValidatorConfig(reject_unconfined_seccomp_adjustment=True),
            POLICIES,
            "10-a sets a seccomp policy, which reject_unconfined_seccomp_adjustment forbids",
        ),
        (
            ValidatorConfig(reject_namespace_adjustment=True),
            nri.ContainerAdjustment(linux=linux(namespaces=[nri.LinuxNamespace(type="-cgroup")])),
            "10-a changes Namespace cgroup, which reject_namespace_adjustment forbids",
        ),
        (
            ValidatorConfig(reject_sysctl_adjustment=True),
            nri.ContainerAdjustment(linux=linux(sysctl={"net.x": "1"})),
            "10-a changes Sysctl net.x, which reject_sysctl_adjustment forbids",
        ),
        (
            ValidatorConfig(required_plugins=("a", "b", "c")),
            nri.ContainerAdjustment(),
            "required NRI plugins are not connected: b, c",
        ),
    ],
)
def test_the_configuration_forbids(
    config: ValidatorConfig, adjust: nri.ContainerAdjustment, problem: str
) -> None:
    with pytest.raises(AdjustmentRefused, match=problem):
        judged(config, adjust)
    if not config.required_plugins:
        judged(ValidatorConfig(), adjust)


def test_pods_name_plugins_that_they_need_and_may_do_without() -> None:
    nothing = nri.ContainerAdjustment()
    needs = {"required-plugins_noderesource_dev__pod": "[a, b]"}
    with pytest.raises(AdjustmentRefused, match="not connected: b"):
        judged(ValidatorConfig(), nothing, **needs)
    own = {"required-plugins_noderesource_dev__container_web": "[a]"}
    judged(ValidatorConfig(), nothing, **needs, **own)
    tolerant = ValidatorConfig(tolerate_missing_plugins_annotation="x.y/can-do")
    judged(tolerant, nothing, **needs, **{"x_y__can-do": "true"})
    with pytest.raises(AdjustmentRefused):
        judged(tolerant, nothing, **needs, **{"x_y__can-do": "false"})
    with pytest.raises(InvalidRequest, match="no list of names"):
        judged(ValidatorConfig(), nothing, **{"required-plugins_noderesource_dev": "a: b"})
    with pytest.raises(InvalidRequest, match="no YAML"):
        judged(ValidatorConfig(), nothing, **{"required-plugins_noderesource_dev": "[a"})
