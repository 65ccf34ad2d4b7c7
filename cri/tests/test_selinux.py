"""Which labels pods and containers get, and what is said where they can't be given."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, WrongState
from cri.rpc.selinux import Selinux, label_images
from cri.specgen import container, selinux
from cri.specgen.subject import Facts
from cri.tests.pods import FOREVER, Node
from cri.tests.subjects import Context, secured, subject
from runtime.selinux.label import Label, categories
from runtime.selinux.node import Policy
from runtime.selinux.relabel import XATTR

PROCESS = Label("system_u", "system_r", "container_t", "s0")
FILE = Label("system_u", "object_r", "container_file_t", "s0")
FREE = Label("system_u", "system_r", "spc_t", "s0")
POLICY = Policy(PROCESS, FILE, FILE, FREE)
POD = replace(FILE, level="s0:c1,c2")
MINE = "system_u:system_r:container_t:s0:c1,c2"


def options(**fields: str) -> api.SELinuxOption:
    return api.SELinuxOption(**fields)


def pod_config(
    asked: api.SELinuxOption | None = None, **namespaces: object
) -> api.PodSandboxConfig:
    config = api.PodSandboxConfig()
    security = config.linux.security_context
    security.selinux_options.CopyFrom(asked or options())
    security.namespace_options.CopyFrom(api.NamespaceOption(**namespaces))  # type: ignore[arg-type]
    return config


def process(pod: api.PodSandboxConfig | None = None, **context: object) -> str:
    found = selinux.container(POLICY, POD, pod or pod_config(), secured(**context))
    return str(found.process)


def test_a_pod_has_categories_of_its_own_or_those_that_it_asks_for() -> None:
    made = selinux.pod_mount(options(), POLICY, ())
    assert (made.type, len(categories(made.level))) == ("container_file_t", 2)
    asked = selinux.pod_mount(options(level="s0:c7", user="me_u", type="x_t"), POLICY, ())
    assert str(asked) == "me_u:object_r:container_file_t:s0:c7"


def test_where_the_policy_knows_no_levels_there_are_none() -> None:
    file = replace(FILE, level="")
    plain = Policy(replace(PROCESS, level=""), file, file)
    pod = selinux.pod_mount(options(), plain, ())
    assert str(pod) == "system_u:object_r:container_file_t"
    found = selinux.container(plain, pod, pod_config(), secured())
    assert str(found.process) == "system_u:system_r:container_t"


def test_a_container_has_its_pods_label_and_what_it_asks_for_itself() -> None:
    assert process() == MINE
    assert process(selinux_options=options(type="web_t")) == MINE.replace("container_t", "web_t")
    assert process(selinux_options=options(level="s0:c9")) == MINE.replace("c1,c2", "c9")
    asked = pod_config(options(type="pod_t", role="pod_r"))
    assert process(asked) == "system_u:pod_r:pod_t:s0:c1,c2"
    own = options(type="own_t", user="own_u")
    assert process(asked, selinux_options=own) == "own_u:pod_r:own_t:s0:c1,c2"


def test_its_files_have_its_level() -> None:
    found = selinux.container(
        POLICY, POD, pod_config(), secured(selinux_options=options(level="s0:c9", user="u"))
    )
    assert str(found.mount) == "u:object_r:container_file_t:s0:c9"


@pytest.mark.parametrize(
    ("pod", "context"),
    [
        (pod_config(), Context(privileged=True)),
        (pod_config(pid=api.NODE), Context()),
        (pod_config(ipc=api.NODE), Context()),
        (pod_config(), Context(namespace_options=api.NamespaceOption(pid=api.NODE))),
    ],
)
def test_who_has_the_node_is_not_confined_unless_he_asks_for_it(
    pod: api.PodSandboxConfig, context: Context
) -> None:
    def asking(policy: Policy = POLICY, **asked: str) -> str:
        config = api.ContainerConfig()
        config.linux.security_context.CopyFrom(context)
        config.linux.security_context.selinux_options.CopyFrom(options(**asked))
        return str(selinux.container(policy, POD, pod, config).process)

    assert asking() == str(FREE)
    assert asking(level="s0:c5") == f"{FREE}:c5"
    assert asking(type="container_t") == MINE
    assert asking(replace(POLICY, privileged=None)) == "None"


@pytest.mark.parametrize(
    "asked",
    [{"level": "s0,c4,c5"}, {"level": "s0:c1\n"}, {"user": "a:b"}, {"role": "a b"}, {"type": 'a"'}],
)
def test_what_can_not_be_part_of_a_label_is_refused(asked: dict[str, str]) -> None:
    [(name, value)] = asked.items()
    with pytest.raises(InvalidRequest, match=rf"selinux_options\.{name}: ") as found:
        selinux.check(options(**asked))
    assert repr(value) in str(found.value)
    selinux.check(options(user="system_u", role="r", type="svirt_lxc_net_t", level="s0:c4,c5"))


def kernel(bad: str) -> Callable[[Label], bool]:
    """One that knows all labels without this part."""
    return lambda label: bad not in (label.user, label.role, label.type, label.level)


@pytest.mark.parametrize("name", ["user", "role", "type", "level"])
def test_a_part_that_the_policy_does_not_have_is_named(name: str) -> None:
    value = "s0:c9" if name == "level" else "bad"
    asked = secured(selinux_options=options(**{name: value}))
    found = selinux.container(POLICY, POD, pod_config(), asked)
    with pytest.raises(InvalidRequest, match=rf"selinux_options\.{name}: '{value}'"):
        selinux.check_known(found, kernel(value))
    selinux.check_known(found, kernel("other"))
    selinux.check_known(selinux.NONE, kernel("other"))


def test_labels_stand_in_the_spec() -> None:
    labels = selinux.container(POLICY, POD, pod_config(), secured())
    spec = container.spec(subject(secured(), facts=Facts(labels=labels)))
    assert (spec.process.selinux_label, spec.linux.mount_label) == (MINE, str(POD))
    spec = container.spec(subject(secured()))
    assert (spec.process.selinux_label, spec.linux.mount_label) == (None, None)


def asking(node: Node) -> tuple[api.PodSandboxConfig, api.ContainerConfig]:
    """A pod and a container that want a label."""
    pod, config = node.sandbox_config(), node.container_config(*FOREVER)
    for part in (pod, config):
        part.linux.security_context.selinux_options.level = "s0:c1,c2"
    return pod, config


@pytest.mark.root
async def test_where_selinux_is_off_labels_are_passed_over_and_that_is_logged(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pod, config = asking(node)
    sandbox_id = await node.run(pod)
    assert node.services.store.sandboxes.get(sandbox_id).metadata.mount_label == ""
    await node.create_from(sandbox_id, config)
    assert caplog.text.count("selinux_options: passed over, since SELinux is off here") == 2


@pytest.mark.root
async def test_a_policy_that_knows_no_containers_is_told_to_who_asks(node: Node) -> None:
    node.services = replace(node.services, selinux=Selinux(refusal="no such file"))
    pod, config = asking(node)
    with pytest.raises(WrongState, match=r"selinux_options: .*no such file"):
        await node.run(pod)
    sandbox_id = await node.run()
    with pytest.raises(WrongState, match=r"selinux_options: .*no such file"):
        await node.create_from(sandbox_id, config)
    assert node.images.overlays == {}
    off = replace(node.services.config.containers, selinux="off")
    config_off = replace(node.services.config, containers=off)
    node.services = replace(node.services, config=config_off)
    await node.create_from(sandbox_id, config)


@pytest.mark.root
def test_images_are_unpacked_where_all_containers_may_read(tmp_path: Path) -> None:
    for name in ("layers", "tmp"):
        (tmp_path / name).mkdir()
    label_images(Selinux(POLICY), tmp_path)
    for name in ("layers", "tmp"):
        assert os.getxattr(tmp_path / name, XATTR).decode() == str(POLICY.image)


@pytest.mark.root
def test_where_that_can_not_be_done_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label_images(Selinux(POLICY), tmp_path)
    assert f"{tmp_path}/layers can't be labelled" in caplog.text


@pytest.mark.root
async def test_a_level_that_can_be_none_makes_no_sandbox(node: Node) -> None:
    pod, _ = asking(node)
    pod.linux.security_context.selinux_options.level = "s0,c1"
    with pytest.raises(InvalidRequest, match=r"selinux_options\.level: 's0,c1' is no level"):
        await node.run(pod)
    assert len(node.services.store.sandboxes) == 0
