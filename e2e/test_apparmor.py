"""AppArmor, as the kernel enforces it; and what is said on a node whose kernel has none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Kubelet, Pod, refused
from e2e.test_container import security
from runtime.apparmor import profiles

Profile = api.SecurityProfile
MINE = "podwright-test-deny-tmp"
needs_apparmor = pytest.mark.skipif(
    not profiles.enabled(), reason="this kernel has no AppArmor: run it in a machine that has"
)
CURRENT = "cat /proc/self/attr/current"
DEFAULT = f"{profiles.DEFAULT} (enforce)"


def kind(name: str, reference: str = "") -> api.SecurityProfile:
    return Profile(profile_type=name, localhost_ref=reference)


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[str]:
    """A profile that the node's administrator has loaded: /tmp can't be written to."""
    path = tmp_path / "profile"
    path.write_text(
        f"profile {MINE} flags=(attach_disconnected) {{\n"
        "  file, capability, network, signal, deny /tmp/** w,\n}\n"
    )
    subprocess.run([profiles.PARSER, "--replace", "--skip-cache", path], check=True)
    yield MINE
    subprocess.run([profiles.PARSER, "--remove", path], check=True)


@pytest.mark.skipif(profiles.enabled(), reason="this kernel has AppArmor")
@pytest.mark.parametrize("profile", [kind("RuntimeDefault"), kind("Localhost", "mine")])
def test_without_apparmor_who_asks_for_it_is_refused_and_told(
    pod: Pod, profile: api.SecurityProfile
) -> None:
    error = refused(lambda: pod.container(linux=security(apparmor=profile)))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.message.startswith("config.linux.security_context.apparmor")
    assert "kernel has no AppArmor" in error.message
    assert pod.run("echo runs", linux=security(apparmor=kind("Unconfined"))) == ["runs"]


@needs_apparmor
@pytest.mark.parametrize(
    "context",
    [
        {},
        {"apparmor": kind("RuntimeDefault")},
        {"apparmor_profile": "runtime/default"},
        {"no_new_privs": True},
    ],
)
def test_a_container_is_confined_and_so_are_its_commands(
    pod: Pod, context: dict[str, object]
) -> None:
    container = pod.container(linux=security(**context)).start()
    status = Path(f"/proc/{container_pid(container.id, pod)}/attr/current").read_text().strip()
    assert status == DEFAULT  # as the node's kernel says
    assert container.shell(CURRENT) == DEFAULT


def container_pid(container_id: str, pod: Pod) -> int:
    """The pid that the node knows the container's first process by."""
    for pid in filter(str.isdigit, (entry.name for entry in Path("/proc").iterdir())):
        try:
            if container_id in Path(f"/proc/{pid}/cgroup").read_text():
                return int(pid)
        except OSError:
            continue
    raise AssertionError(f"no process of container {container_id} of pod {pod.id}")


@needs_apparmor
def test_even_an_administrator_can_not_mount_or_turn_the_kernels_switches(pod: Pod) -> None:
    linux = security(capabilities=api.Capability(add_capabilities=["ALL"]))
    said = pod.run(
        "mount -t tmpfs x /tmp 2>&1; umount /dev/shm 2>&1;"
        " (echo 1 > /proc/sys/vm/drop_caches) 2>&1; (echo h > /proc/sysrq-trigger) 2>&1;"
        " cat /proc/kcore 2>&1 | head -c 100; echo; echo > /dev/null && touch /tmp/x && echo works",
        linux=linux,
    )
    assert [line.rpartition(": ")[2] for line in said if "enied" in line] == [
        "Permission denied"
    ] * 5
    assert said[-1] == "works"


@needs_apparmor
def test_a_profile_of_the_nodes_confines_who_names_it(pod: Pod, mine: str) -> None:
    write = "touch /tmp/x 2>&1 || true; touch /x && echo elsewhere"
    for context in (
        {"apparmor": kind("Localhost", mine)},
        {"apparmor_profile": f"localhost/{mine}"},
        {"apparmor": kind("Localhost", mine), "apparmor_profile": "unconfined"},
    ):
        said = pod.run(write, linux=security(**context))
        assert "Permission denied" in said[0]
        assert said[1:] == ["elsewhere"]
    free = security(apparmor=kind("Unconfined"), apparmor_profile=f"localhost/{mine}")
    assert pod.run(f"{write}; {CURRENT}", linux=free) == ["elsewhere", "unconfined"]


@needs_apparmor
def test_a_profile_that_is_not_loaded_is_named(pod: Pod) -> None:
    linux = security(apparmor=kind("Localhost", "nobody-loaded-this"))
    error = refused(lambda: pod.container(linux=linux))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "'nobody-loaded-this': is not loaded on this node" in error.message


@needs_apparmor
def test_a_confined_container_still_hears_that_it_is_to_stop(pod: Pod) -> None:
    container = pod.container(["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"])
    container.start()
    assert container.shell("kill -0 1 && echo hears") == "hears"
    container.stop(grace=30)
    assert container.status().exit_code == 7


@needs_apparmor
def test_a_privileged_container_is_not_confined(kubelet: Kubelet) -> None:
    config = kubelet.config()
    config.linux.security_context.privileged = True
    said = kubelet.pod(config).run(CURRENT, linux=security(privileged=True))
    assert said == ["unconfined"]
