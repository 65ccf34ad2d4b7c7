"""Users of a pod's own: what CRI asks, as a spec; what no user namespace can be made of."""

from __future__ import annotations

import pytest

from cri.api import api_pb2 as api
from cri.config import ContainersConfig
from cri.errors import InvalidRequest
from cri.specgen import container, mounts, namespaces, sandbox
from cri.specgen.sandbox import Defaults, Node
from cri.tests.subjects import Options, pod_with, secured, subject
from runtime.init import plan
from runtime.init.values import MountKind, UserMap
from runtime.spec import IdMapping, Rootfs

OWN_USERS = api.UserNamespace(
    mode=api.POD,
    uids=[api.IDMapping(host_id=70000, length=65536)],
    gids=[api.IDMapping(host_id=80000, length=65536)],
)


def ids(*, container_id: int = 0, host_id: int = 70000, length: int = 65536) -> api.IDMapping:
    return api.IDMapping(container_id=container_id, host_id=host_id, length=length)


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ([], r"uids: 0 ranges"),
        ([ids(), ids(host_id=2)], r"uids: 2 ranges"),
        ([ids(container_id=1)], r"uids\[0\]\.container_id: 1: the container's root must be mapped"),
        ([ids(host_id=0)], r"uids\[0\]\.host_id: 0: the node's root"),
        ([ids(length=0)], r"uids\[0\]\.length"),
        ([ids(host_id=2**32 - 2, length=2)], r"uids\[0\]\.length: 2 ids from 4294967294 on end"),
    ],
)
def test_a_range_that_the_kernel_would_refuse_is_refused_by_name(
    users: list[api.IDMapping], problem: str
) -> None:
    asked = api.UserNamespace(mode=api.POD, uids=users, gids=OWN_USERS.gids)
    with pytest.raises(InvalidRequest, match=problem):
        namespaces.user_map(Options(userns_options=asked), "x")


@pytest.mark.parametrize("mode", [api.CONTAINER, api.TARGET])
def test_only_pods_have_users_of_their_own(mode: api.NamespaceMode) -> None:
    asked = Options(userns_options=api.UserNamespace(mode=mode))
    with pytest.raises(InvalidRequest, match="only POD and NODE exist"):
        namespaces.user_map(asked, "x")


def test_who_does_not_ask_or_asks_for_the_nodes_gets_the_nodes() -> None:
    for asked in (Options(), Options(userns_options=api.UserNamespace(mode=api.NODE))):
        assert namespaces.user_map(asked, "x") is None


@pytest.mark.parametrize(
    ("pod", "asked"),
    [
        (pod_with(), OWN_USERS),
        (pod_with(userns_options=OWN_USERS), api.UserNamespace(mode=api.NODE)),
    ],
)
def test_a_container_can_not_differ_from_its_pod(
    pod: api.PodSandboxConfig, asked: api.UserNamespace
) -> None:
    with pytest.raises(InvalidRequest, match="not the sandbox's"):
        namespaces.namespaces(
            subject(secured(namespace_options=Options(userns_options=asked)), pod)
        )


def test_groups_that_may_ping_are_those_of_the_pod() -> None:
    made = sandbox.request(
        "s", pod_with(userns_options=OWN_USERS), Defaults(ContainersConfig()), Node("n")
    )
    assert made.user_map == UserMap(70000, 80000, 65536, 65536)
    assert made.sysctls["net.ipv4.ping_group_range"] == "0 65535"


def test_terminals_and_devices_belong_to_the_pods_root() -> None:
    pod = pod_with(userns_options=OWN_USERS)
    spec = container.spec(subject(api.ContainerConfig(), pod))
    made = plan.container(spec, Rootfs(("/l",), "/u", "/w"))
    (pts,) = [step for step in made.mounts if step.source == "devpts"]
    assert ("gid", "80005") in pts.parameters
    assert {(node.uid, node.gid) for node in made.dev.nodes} == {(70000, 80000)}
    assert not any(step.mapped for step in made.mounts if step.kind is MountKind.BIND)


def test_a_container_has_the_users_of_its_pod_whether_it_says_so_or_not() -> None:
    pod = pod_with(userns_options=OWN_USERS)
    for config in (
        api.ContainerConfig(),
        secured(namespace_options=Options(userns_options=OWN_USERS)),
    ):
        linux = container.spec(subject(config, pod)).linux
        assert "user" in [item.type for item in linux.namespaces]
        assert linux.uid_mappings == (IdMapping(0, 70000, 65536),)
        assert linux.gid_mappings == (IdMapping(0, 80000, 65536),)


def test_ids_of_a_volume_are_mapped_as_the_pods_are_and_nothing_goes_back_to_the_node() -> None:
    pod = pod_with(userns_options=OWN_USERS)
    asked = api.Mount(
        container_path="/x", host_path="/y", uidMappings=OWN_USERS.uids, gidMappings=OWN_USERS.gids
    )
    (found,) = [
        mount
        for mount in mounts.mounts(subject(api.ContainerConfig(mounts=[asked]), pod))
        if mount.destination == "/x"
    ]
    assert found.uid_mappings == (IdMapping(0, 70000, 65536),)
    asked.propagation = api.PROPAGATION_BIDIRECTIONAL
    with pytest.raises(InvalidRequest, match="can't reach the node"):
        mounts.mounts(subject(api.ContainerConfig(mounts=[asked]), pod))
