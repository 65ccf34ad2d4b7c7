"""Pods with users of their own: what their root is on the node, and what it can't do there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused
from e2e.node import Node
from e2e.test_container import number, security
from e2e.test_devices import KNOWN

FIRST_USER, FIRST_GROUP, IDS = 1_000_000, 2_000_000, 65536
USERS = api.IDMapping(container_id=0, host_id=FIRST_USER, length=IDS)
GROUPS = api.IDMapping(container_id=0, host_id=FIRST_GROUP, length=IDS)
OWN_USERS = api.UserNamespace(mode=api.POD, uids=[USERS], gids=[GROUPS])
DENIALS = ("permission denied", "not permitted", "invalid argument", "read-only file system")
ADMIN = api.Capability(add_capabilities=["SYS_ADMIN", "MKNOD", "DAC_READ_SEARCH"])


def user_pod(kubelet: Kubelet, *, pid: api.NamespaceMode = api.CONTAINER, **options: object) -> Pod:
    wanted = api.NamespaceOption(userns_options=OWN_USERS, **options)  # type: ignore[arg-type]  # by name
    context = api.LinuxSandboxSecurityContext(namespace_options=wanted)
    sandbox = api.LinuxPodSandboxConfig(security_context=context)
    return kubelet.pod(kubelet.config(pid=pid, linux=sandbox))


@pytest.fixture
def pod(kubelet: Kubelet) -> Pod:
    return user_pod(kubelet)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory of the node's root, in which a secret lies that is its alone."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("of the node")
    (tmp_path / "secret").chmod(0o600)
    return tmp_path


def mount(path: Path, *, mapped: bool, **fields: object) -> api.Mount:
    asked = api.Mount(host_path=str(path), container_path="/volume", **fields)  # type: ignore[arg-type]  # by name
    if mapped:
        asked.uidMappings.append(USERS)
        asked.gidMappings.append(GROUPS)
    return asked


def of_status(container: Container, key: str) -> list[int]:
    """Numbers of a line of the process's status, as the node sees it."""
    pid = json.loads(container.response(verbose=True).info["info"])["pid"]
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{key}:")]
    return [int(word) for word in line.split()[1:]]


def test_root_is_somebody_without_any_rights_on_the_node(pod: Pod) -> None:
    container = pod.container().start()
    assert of_status(container, "Uid") == [FIRST_USER] * 4
    assert of_status(container, "Gid") == [FIRST_GROUP] * 4
    assert container.shell("id -u; id -g; cat /proc/self/uid_map").split() == [
        *("0", "0"), "0", str(FIRST_USER), str(IDS),
    ]  # fmt: skip


def test_what_root_writes_is_not_roots_on_the_node(node: Node, pod: Pod) -> None:
    container = pod.container().start()
    container.shell(
        "echo x > /made; mkdir /dir; touch /dev/shm/x; chown 7:8 /dir; stat -c %u /made"
    )
    top = node.root / "containers" / container.id / "upper"
    found = {path: (top / path).stat() for path in (".", "made", "dir")}
    owners = {path: (status.st_uid, status.st_gid) for path, status in found.items()}
    assert owners == {
        ".": (FIRST_USER, FIRST_GROUP),
        "made": (FIRST_USER, FIRST_GROUP),
        "dir": (FIRST_USER + 7, FIRST_GROUP + 8),
    }


def test_the_image_and_all_that_we_make_belong_to_the_pods_root(pod: Pod) -> None:
    paths = "/ /bin/busybox /etc/hosts /etc/hostname /etc/resolv.conf /dev /dev/null /dev/shm /work"
    container = pod.container(working_dir="/work").start()
    owners = container.shell(f"stat -c '%u:%g' {paths}").split()
    assert owners == ["0:0"] * len(paths.split())
    container.shell("echo 127.0.0.1 more >> /etc/hosts; echo > /dev/null; echo > /dev/shm/y")


def test_a_volume_with_mapped_ids_is_as_if_the_pod_had_the_nodes_users(
    pod: Pod, volume: Path
) -> None:
    container = pod.container(mounts=[mount(volume, mapped=True)]).start()
    assert container.shell("cat /volume/secret; stat -c %u /volume/secret") == "of the node0"
    container.shell("echo x > /volume/made; chown 5:6 /volume/made")
    made = (volume / "made").stat()
    assert (made.st_uid, made.st_gid) == (5, 6)


def test_a_volume_without_mapped_ids_is_nobodys(pod: Pod, volume: Path) -> None:
    container = pod.container(
        mounts=[mount(volume, mapped=False)], linux=security(capabilities=ADMIN)
    ).start()
    assert container.shell("stat -c %u /volume/secret") == "65534"
    assert container.exec("cat", "/volume/secret").exit_code != 0
    assert container.exec("touch", "/volume/made").exit_code != 0
    assert container.exec("chown", "0", "/volume/secret").exit_code != 0


def test_a_file_system_that_can_not_map_ids_is_named(pod: Pod) -> None:
    asked = mount(Path("/proc/sys"), mapped=True)
    error = refused(pod.container(mounts=[asked]).start)
    assert "proc, mounted at '/proc', can't map user ids" in error.message
    assert "/proc/sys" in error.message


def test_mount_ids_that_are_not_the_pods_are_refused(kubelet: Kubelet, volume: Path) -> None:
    asked = mount(volume, mapped=True)
    asked.uidMappings[0].host_id += 1
    error = refused(lambda: user_pod(kubelet).container(mounts=[asked]))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    host = kubelet.pod()
    error = refused(lambda: host.container(mounts=[mount(volume, mapped=True)]))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("hooks", [[], [{"hookName": "createContainer", "path": "/bin/true"}]])
def test_even_cap_sys_admin_takes_away_nothing_that_we_mounted(
    node: Node, pod: Pod, volume: Path, hooks: list[object]
) -> None:
    """What hides or protects something is locked: mount_namespaces(7)."""
    edits = {"env": ["A=1"], "hooks": hooks}
    container = with_device(
        node, pod, edits, mounts=[mount(volume, mapped=True, readonly=True)], linux=security(
            capabilities=ADMIN, masked_paths=["/proc/keys"], readonly_paths=["/proc/sys"],
        ),
    )  # fmt: skip
    container.shell("mkdir /own && mount -t tmpfs none /own && touch /own/x && umount /own")
    for attempt in (
        "umount /proc/keys",
        "umount /volume",
        "umount /proc",
        "mount -o remount,bind,rw none /volume",
        "mount -o remount,bind,rw none /proc/sys",
        "mount -o remount,rw none /sys",
        "mount -o remount,bind,dev none /proc",
        "mount -t proc none /own",
        "mount -t sysfs none /own",
        "mknod /own/disk b 8 0",
        "mknod /own/null c 1 3",
        "touch /volume/made",
    ):
        answer = container.exec("sh", "-c", attempt)
        said = answer.stderr.decode().lower()
        assert answer.exit_code != 0, attempt
        assert any(word in said for word in DENIALS), (attempt, said)
    assert list(volume.iterdir()) == [volume / "secret"]


def test_a_device_keeps_its_owner_of_the_node(pod: Pod, tmp_path: Path) -> None:
    """Who may not open it there, by its mode, may not open it by becoming root in a container."""
    disk = tmp_path / "disk"
    os.mknod(disk, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    device = api.Device(host_path=str(disk), container_path="/dev/disk", permissions="rwm")
    container = pod.container(devices=[device], linux=security(capabilities=ADMIN)).start()
    assert container.shell("stat -c '%u %a' /dev/disk") == "65534 600"
    assert container.exec("sh", "-c", "echo > /dev/disk").exit_code != 0
    disk.chmod(0o666)
    other = pod.container(devices=[device]).start()
    other.shell("echo > /dev/disk")


def test_a_device_by_name_comes_with_all_that_it_brings(node: Node, pod: Pod, volume: Path) -> None:
    (volume / "lib").write_text("driver")
    link = "ln -s lib usr/lib/link; id -u > told"  # where it begins: in the container's root
    own = "id -u; cat /proc/self/uid_map"
    path = KNOWN
    edits = {
        "env": ["GPU=0"],
        "deviceNodes": [
            {"path": "/dev/gpu", "hostPath": path, "fileMode": 0o666},
            {"path": "/dev/closed", "hostPath": path, "fileMode": 0o600, "uid": 0},
        ],
        "mounts": [{"hostPath": str(volume / "lib"), "containerPath": "/usr/lib/lib"}],
        "hooks": [
            {"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", link]},
            {
                "hookName": "startContainer",
                "path": "/bin/busybox",
                "args": ["sh", "-c", f"({own}) > /own"],
            },
        ],
    }
    container = with_device(node, pod, edits)
    said = container.shell(
        "echo $GPU; stat -c '%a %u' /dev/gpu /dev/closed; cat /usr/lib/link; echo; cat /told;"
        " stat -c %u /told; : < /dev/gpu && echo opened; (: < /dev/closed) 2>&1 || true; cat /own"
    ).splitlines()
    assert said[:6] == ["0", "666 65534", "600 65534", "driver", "0", "0"]
    assert said[6] == "opened"
    assert "ermission denied" in said[7]
    assert " ".join(said[8:]).split() == ["0", "0", str(FIRST_USER), str(IDS)]


def with_device(node: Node, pod: Pod, edits: object, **fields: object) -> Container:
    """A container with the device of a CDI file with these edits."""
    device = {"name": "0", "containerEdits": edits}
    specs = node.directory / "cdi" / "etc"
    specs.mkdir(parents=True, exist_ok=True)
    made = {"cdiVersion": "0.7.0", "kind": "vendor.com/gpu", "devices": [device]}
    (specs / "gpu.json").write_text(json.dumps(made))
    try:
        wanted = [api.CDIDevice(name="vendor.com/gpu=0")]
        config = pod.container_config(["sleep", "1000"], CDI_devices=wanted, **fields)
        return pod.create(config).start()
    finally:
        shutil.rmtree(specs.parent)


def test_a_hook_in_the_containers_namespaces_is_the_pods_root(
    node: Node, pod: Pod, volume: Path
) -> None:
    """It may mount there, and has no rights over the node; what it mounts nobody takes away."""
    volume.chmod(0o755)
    script = (
        "set -e; cat /proc/self/uid_map > map; id -G > groups; mkdir mnt; mount -t tmpfs none mnt;"
        f" echo seen > mnt/file; cat {volume}/secret > secret 2>&1 || true;"
        f" echo x 2>&1 > {volume}/made >> made || true; test -r ../config.json"
    )
    hook = {"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", script]}
    container = with_device(node, pod, {"hooks": [hook]}, linux=security(capabilities=ADMIN))
    assert container.shell("cat /map").split() == ["0", str(FIRST_USER), str(IDS)]
    assert container.shell("cat /groups /mnt/file") == "0\nseen"
    assert "Permission denied" in container.shell("cat /secret")
    assert not (volume / "made").exists()
    assert container.exec("umount", "/mnt").exit_code != 0


def test_users_and_groups_are_the_pods(pod: Pod) -> None:
    context = security(run_as_user=number(1000), supplemental_groups=[3000])
    container = pod.container(linux=context).start()
    assert of_status(container, "Uid") == [FIRST_USER + 1000] * 4
    assert FIRST_GROUP + 3000 in of_status(container, "Groups")
    assert container.shell("id -u; echo out > /dev/stdout") == "1000\nout"
    assert container.status().user.linux.uid == 1000
    outside = pod.container(linux=security(run_as_user=number(IDS)))
    assert f"the pod has the users 0..{IDS - 1}" in refused(outside.start).message


def test_the_pods_network_ipc_and_name_are_its_own(kubelet: Kubelet) -> None:
    """Its root may do with them what root may: they are owned by its user namespace."""
    options = api.NamespaceOption(userns_options=OWN_USERS, pid=api.CONTAINER)
    sandbox = api.LinuxPodSandboxConfig(
        security_context=api.LinuxSandboxSecurityContext(namespace_options=options),
        sysctls={"net.ipv4.ping_group_range": "10 20", "kernel.shm_rmid_forced": "1"},
    )
    pod = kubelet.pod(kubelet.config(linux=sandbox))
    more = api.Capability(add_capabilities=["NET_ADMIN", "SYS_ADMIN"])
    container = pod.container(linux=security(capabilities=more)).start()
    container.shell("ip link set lo mtu 1400 && hostname other && hostname | grep other")
    assert container.shell("cat /proc/sys/net/ipv4/ping_group_range").split() == ["10", "20"]
    assert container.shell("cat /proc/sys/kernel/shm_rmid_forced") == "1"
    assert pod.ip
    assert container.exec("nslookup", "-timeout=1", "x").exit_code in (0, 1)


def test_a_ping_needs_no_privilege(pod: Pod) -> None:
    context = security(
        run_as_user=number(1000), run_as_group=number(1000),
        capabilities=api.Capability(drop_capabilities=["ALL"]),
    )  # fmt: skip
    container = pod.container(linux=context).start()
    assert container.shell("cat /proc/sys/net/ipv4/ping_group_range").split() == ["0", "65535"]


def test_all_containers_can_share_their_processes(kubelet: Kubelet) -> None:
    pod = user_pod(kubelet, pid=api.POD)
    one, two = pod.container().start(), pod.container(["sleep", "7654"]).start()
    assert "sleep 7654" in one.shell("ps -o args").splitlines()
    assert one.shell("grep Uid /proc/1/status").split()[1:] == ["0"] * 4  # the reaper is in there
    two.stop()


def test_a_pod_may_have_the_nodes_network_and_gets_no_rights_over_it(kubelet: Kubelet) -> None:
    pod = user_pod(kubelet, network=api.NODE)
    more = api.Capability(add_capabilities=["NET_ADMIN", "SYS_ADMIN"])
    container = pod.container(linux=security(capabilities=more)).start()
    assert container.shell("ls /sys/class/net")
    assert container.exec("ip", "link", "set", "lo", "mtu", "1400").exit_code != 0
    assert container.exec("hostname", "other").exit_code != 0


def test_commands_join_the_user_namespace_and_survive_a_daemon(node: Node, pod: Pod) -> None:
    container = pod.container().start()
    assert node.daemon is not None
    os.kill(node.daemon.process.pid, signal.SIGKILL)
    node.daemon.process.wait()
    node.start_daemon()
    assert container.shell("id -u; cat /proc/self/uid_map").split()[:3] == [
        *("0", "0"), str(FIRST_USER),
    ]  # fmt: skip
    later = pod.container().start()
    assert of_status(later, "Uid") == [FIRST_USER] * 4
    assert later.exec("sh", "-c", "exit 3").exit_code == 3


def test_a_command_has_the_capabilities_of_the_container_and_no_more(pod: Pod) -> None:
    container = pod.container(
        linux=security(capabilities=api.Capability(drop_capabilities=["ALL"]))
    ).start()
    for line in container.shell("grep Cap /proc/self/status").splitlines():
        assert int(line.split()[1], 16) == 0, line


def test_the_nodes_processes_are_not_for_a_pod_with_users_of_its_own(kubelet: Kubelet) -> None:
    for field, ask in (
        ("pid", lambda: user_pod(kubelet, pid=api.NODE)),
        ("ipc", lambda: user_pod(kubelet, ipc=api.NODE)),
    ):
        error = refused(ask)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"namespace_options.{field}" in error.message


def test_the_nodes_root_can_not_be_mapped(kubelet: Kubelet) -> None:
    wrong = api.IDMapping(container_id=0, host_id=0, length=IDS)
    users = api.UserNamespace(mode=api.POD, uids=[wrong], gids=[wrong])
    context = api.LinuxSandboxSecurityContext(
        namespace_options=api.NamespaceOption(userns_options=users)
    )
    config = kubelet.config(linux=api.LinuxPodSandboxConfig(security_context=context))
    assert refused(lambda: kubelet.pod(config)).code is grpc.StatusCode.INVALID_ARGUMENT


def test_mounts_never_leave_a_user_namespace(pod: Pod, volume: Path) -> None:
    asked = mount(volume, mapped=True, propagation=api.PROPAGATION_BIDIRECTIONAL)
    assert "can't reach the node" in refused(lambda: pod.container(mounts=[asked])).message


def test_the_status_says_that_there_are_user_namespaces(kubelet: Kubelet) -> None:
    answer = kubelet.client.call("Status", api.StatusRequest(), api.StatusResponse)
    assert all(handler.features.user_namespaces for handler in answer.runtime_handlers)
    assert answer.features.user_namespaces_host_network
