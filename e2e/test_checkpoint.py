"""Checkpoints: written while the container runs on, and gone on from by another one."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import images
from e2e.images import Entry, Layer
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import REGISTRY, Node
from e2e.test_container import security

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
CRIU = os.environ.get("PODWRIGHT_CRIU") or shutil.which("criu", path="/usr/sbin:/usr/bin") or ""
DEFAULT = api.SecurityProfile(profile_type=api.SecurityProfile.RuntimeDefault)


def without_criu() -> str:
    """Why CRIU can't be used here; "" if it can."""
    if not CRIU:
        return "criu is not installed: `apt-get install criu`, or PODWRIGHT_CRIU=/path/to/criu"
    check = subprocess.run([CRIU, "check"], capture_output=True, text=True, check=False)
    if check.returncode == 0:
        return ""
    said = next((line for line in check.stderr.splitlines() if "Error" in line), "")
    return f"{CRIU} does not work with this kernel ({said}): PODWRIGHT_CRIU=/path/to/newer/criu"


@pytest.fixture(scope="module")
def criu_node(node: Node, busybox: str) -> Iterator[Node]:
    """The session's node, with a CRIU that works."""
    if why := without_criu():
        pytest.skip(why)
    node.more_config = f'[runtime]\ncriu = "{CRIU}"\n'
    node.restart_daemon()
    yield node
    node.more_config = ""
    node.restart_daemon()


@pytest.fixture
def criu(criu_node: Node, kubelet: Kubelet) -> Kubelet:
    return kubelet


@pytest.fixture
def archive(criu_node: Node, tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.tar"


def write(container: Container, location: Path, seconds: int = 0) -> None:
    request = api.CheckpointContainerRequest(
        container_id=container.id, location=str(location), timeout=seconds
    )
    client = container.kubelet.client
    client.call("CheckpointContainer", request, api.CheckpointContainerResponse, timeout=120)


def restored(pod: Pod, location: Path | str, **fields: object) -> Container:
    """A container that goes on from an archive; its command is nobody's."""
    image = api.ImageSpec(image=str(location))
    config = pod.container_config(["not", "this"], **fields)
    config.image.CopyFrom(image)
    return pod.create(config)


def counting(pod: Pod, before: str = ":", **fields: object) -> Container:
    container = pod.container(["sh", "-c", f"{before}; {COUNT}"], **fields).start()
    until(lambda: len(container.log()) > 3, "it counts")
    return container


def goes_on(container: Container) -> None:
    seen = len(container.log())
    until(lambda: len(container.log()) > seen, "it counts on")
    numbers = [int(line) for line in container.log()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            member.name: opened.read()
            for member in archive
            if (opened := archive.extractfile(member)) is not None
        }


def rewritten(path: Path, changes: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """The same archive with other members, or further ones."""
    target = path.with_name("changed.tar")
    kept: dict[str, bytes | tarfile.TarInfo] = {**members(path), **changes}
    with tarfile.open(target, "w") as archive:
        for name, value in kept.items():
            if isinstance(value, tarfile.TarInfo):
                value.name = name
                archive.addfile(value)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return target


def link(target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def nothing_is_left(node: Node) -> None:
    place = node.root / "checkpoints"
    until(lambda: not place.exists() or not os.listdir(place), "the node has no checkpoints")


# --- writing ----------------------------------------------------------------------------------


def test_a_container_runs_on_while_it_is_written_down(criu: Kubelet, archive: Path) -> None:
    container = counting(criu.pod())
    write(container, archive)
    goes_on(container)
    assert archive.stat().st_mode & 0o777 == 0o600
    found = members(archive)
    config = json.loads(found["config.dump"])
    assert (config["id"], config["rootfsImageRef"]) == (container.id, criu.image)
    assert json.loads(found["spec.dump"])["process"]["args"] == ["sh", "-c", f":; {COUNT}"]
    assert {"checkpoint/inventory.img", "checkpoint/pages-1.img", "stats-dump"} <= found.keys()
    assert found["container.log"].startswith(container.log_path.read_bytes()[:100])
    assert os.listdir(archive.parent) == [archive.name]
    nothing_is_left(criu.node)


def test_what_a_container_changed_in_its_files_is_a_layer(criu: Kubelet, archive: Path) -> None:
    change = "rm /etc/group; mkdir /new; echo 1 > /new/file; ln /new/file /new/same; ln -s / /new/l"
    container = counting(
        criu.pod(), f"{change}; dd if=/dev/null of=/new/hole bs=1M seek=1M 2>/dev/null"
    )
    write(container, archive)
    assert archive.stat().st_size < 10 << 20
    with tarfile.open(fileobj=io.BytesIO(members(archive)["rootfs-diff.tar"])) as layer:
        found = {member.name: member for member in layer}
    assert "etc/.wh.group" in found
    assert found["new/file"].isreg()
    assert found["new/same"].islnk()
    assert found["new/l"].linkname == "/"
    assert found["new/hole"].size == 1 << 40


def test_an_archive_is_never_written_over_a_file(criu: Kubelet, archive: Path) -> None:
    archive.write_text("mine")
    container = counting(criu.pod())
    error = refused(lambda: write(container, archive))
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert archive.read_text() == "mine"
    goes_on(container)


@pytest.mark.parametrize("location", ["", "relative.tar", "/no/such/directory/a.tar"])
def test_a_place_where_nothing_can_be_written_is_named(criu: Kubelet, location: str) -> None:
    container = counting(criu.pod())
    error = refused(lambda: write(container, Path(location) if location else Path()))
    assert error.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert str(Path(location).parent if location else location) in error.message
    goes_on(container)
    nothing_is_left(criu.node)


def test_what_has_no_processes_can_not_be_written_down(criu: Kubelet, archive: Path) -> None:
    container = criu.pod().container(["true"])
    assert refused(lambda: write(container, archive)).code is grpc.StatusCode.FAILED_PRECONDITION
    container.start().wait()
    assert refused(lambda: write(container, archive)).code is grpc.StatusCode.FAILED_PRECONDITION
    assert not archive.exists()


def test_a_terminal_is_no_part_of_a_checkpoint(criu: Kubelet, archive: Path) -> None:
    container = criu.pod().container(["sleep", "100"], tty=True).start()
    error = refused(lambda: write(container, archive))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert "terminal" in error.message


def test_a_command_that_runs_in_a_container_is_left_out_and_alone(
    criu: Kubelet, archive: Path
) -> None:
    container = counting(criu.pod())
    (criu.node.directory / "marks").mkdir(exist_ok=True)
    with subprocess.Popen(["sleep", "0"]):
        container.shell("(sleep 3; echo over > /tmp/over) > /dev/null 2>&1 &")
    write(container, archive)
    until(lambda: container.shell("cat /tmp/over 2>/dev/null || true") == "over", "it ended well")


# --- going on ---------------------------------------------------------------------------------


def test_a_container_goes_on_where_another_was(criu: Kubelet, archive: Path) -> None:
    first = counting(
        criu.pod(), "echo kept > /root/file; rm /etc/group", linux=security(seccomp=DEFAULT)
    )
    write(first, archive)
    said = len(members(archive)["container.log"].splitlines())
    second = restored(criu.pod(), archive, linux=security(seccomp=DEFAULT))
    assert second.status().state == api.CONTAINER_CREATED
    second.start()
    goes_on(second)
    assert abs(int(second.log()[0]) - said) <= 3
    assert second.shell("cat /root/file; ls /etc/group 2>/dev/null || echo gone") == "kept\ngone"
    nothing_is_left(criu.node)
    goes_on(first)


def test_a_restored_container_is_as_any_other(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    container = restored(criu.pod(), archive).start()
    goes_on(container)
    criu.node.restart_daemon(how=signal.SIGKILL)
    goes_on(container)
    assert container.status().state == api.CONTAINER_RUNNING
    container.log_path.rename(container.log_path.with_suffix(".old"))
    container.reopen_log()
    until(lambda: bool(container.log()), "it logs")
    request = api.ContainerStatsRequest(container_id=container.id)
    stats = criu.client.call("ContainerStats", request, api.ContainerStatsResponse).stats
    assert stats.memory.usage_bytes.value > 0
    container.stop()
    assert container.status().exit_code == 137


def test_its_end_is_told_with_its_own_exit_code(criu: Kubelet, archive: Path) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7"
    first = criu.pod().container(["sh", "-c", script]).start()
    until(lambda: first.shell("true") == "", "it runs")
    write(first, archive)
    second = restored(criu.pod(), archive).start()
    second.shell("touch /tmp/go")
    assert second.wait().exit_code == 7


def test_it_can_be_written_down_again(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    second = restored(criu.pod(), archive).start()
    goes_on(second)
    again = archive.with_name("again.tar")
    write(second, again)
    goes_on(restored(criu.pod(), again).start())


def test_it_waits_for_its_start_through_the_end_of_a_daemon(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    container = restored(criu.pod(), archive)
    criu.node.restart_daemon(how=signal.SIGKILL)
    goes_on(container.start())


def test_one_that_is_never_started_leaves_nothing(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    restored(criu.pod(), archive).remove()
    nothing_is_left(criu.node)


def test_its_network_mounts_and_names_are_those_of_its_own_pod(
    criu: Kubelet, archive: Path
) -> None:
    volume = criu.node.directory / "volume-of-a-checkpoint"
    volume.mkdir()
    (volume / "file").write_text("old\n")
    mount = api.Mount(host_path=str(volume), container_path="/data")
    write(counting(criu.pod(), mounts=[mount]), archive)
    (volume / "file").write_text("new\n")
    pod = criu.pod()
    container = restored(pod, archive, mounts=[mount], linux=security(readonly_rootfs=True)).start()
    assert container.shell("cat /data/file; hostname") == f"new\n{pod.config.hostname}"
    assert pod.ip in container.shell("ip addr")
    refused_write = container.exec("touch", "/root/x")
    assert b"Read-only" in refused_write.stderr
    shutil.rmtree(volume)


def test_limits_are_those_of_the_request(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    linux = api.LinuxContainerConfig(
        resources=api.LinuxContainerResources(memory_limit_in_bytes=256 << 20, oom_score_adj=500)
    )
    container = restored(criu.pod(), archive, linux=linux).start()
    assert container.shell("cat /proc/1/oom_score_adj") == "500"
    limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    assert str(256 << 20) in container.shell(f"cat {limit} 2>/dev/null || true")


def test_containers_of_a_shared_pid_namespace_go_on(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod(criu.config(pid=api.POD))), archive)
    error = refused(restored(criu.pod(), archive).start)
    assert "pid namespace" in error.message
    container = restored(criu.pod(criu.config(pid=api.POD)), archive).start()
    goes_on(container)


# --- images -----------------------------------------------------------------------------------


def push_checkpoint(node: Node, archive: Path, key: str) -> str:
    """An image which is a checkpoint, as buildah makes it: its files are its only layer."""
    entries = [Entry(name, data) for name, data in members(archive).items()]
    image = images.Image([Layer.of(entries)])
    manifest = {**json.loads(image.manifest), "annotations": {key: "name"}}
    registry = images.Registry(REGISTRY)

    def push() -> None:
        for blob in image.blobs:
            registry.put_blob("tests/checkpoint", blob)
        data = json.dumps(manifest).encode()
        registry.put_manifest("tests/checkpoint", "1", image.types["manifest"], data)

    node.inside(push)
    return f"{REGISTRY}/tests/checkpoint:1"


@pytest.mark.parametrize(
    "key",
    ["io.kubernetes.cri-o.annotations.checkpoint.name", "org.criu.checkpoint.container.name"],
)
def test_an_image_may_be_a_checkpoint(criu: Kubelet, archive: Path, key: str) -> None:
    write(counting(criu.pod()), archive)
    image = criu.pull(push_checkpoint(criu.node, archive, key))
    container = restored(criu.pod(), image).start()
    goes_on(container)
    assert container.status().image_id == criu.image


# --- archives of an enemy ---------------------------------------------------------------------


def names_of_images(kubelet: Kubelet) -> list[str]:
    answer = kubelet.client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    return sorted(
        name for image in answer.images for name in (*image.repo_tags, *image.repo_digests)
    )


def test_an_archive_names_no_image(criu: Kubelet, archive: Path) -> None:
    """CVE-2026-50195: an import that tags what it brings."""
    write(counting(criu.pod()), archive)
    before = names_of_images(criu)
    config = {**json.loads(members(archive)["config.dump"]), "rootfsImageName": "evil/busybox:1.35"}
    changed = rewritten(archive, {"config.dump": json.dumps(config).encode()})
    goes_on(restored(criu.pod(), changed).start())
    assert names_of_images(criu) == before


def test_an_image_that_is_not_here_is_not_fetched(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    changed = rewritten(archive, {"config.dump": b'{"rootfsImageRef": "evil.example/x:1"}'})
    error = refused(lambda: restored(criu.pod(), changed))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert "evil.example/x:1" in error.message
    nothing_is_left(criu.node)


def test_mounts_devices_and_annotations_of_an_archive_mean_nothing(
    criu: Kubelet, archive: Path
) -> None:
    """CVE-2024-8676, CVE-2026-53492: a spec that brings the node's files, and devices by name."""
    write(counting(criu.pod()), archive)
    spec = json.loads(members(archive)["spec.dump"])
    spec["mounts"].append({"destination": "/host", "source": "/", "type": "bind", "options": []})
    spec["annotations"] = {
        "cdi.k8s.io/evil": "vendor.com/net=all",
        "io.kubernetes.cri-o.Volumes": "/",
    }
    spec["linux"]["devices"] = [{"path": "/dev/evil", "type": "b", "major": 254, "minor": 0}]
    mounts = json.dumps({"/host": {"source": "/"}}).encode()
    text = json.dumps(spec).encode()
    changed = rewritten(archive, {"spec.dump": text, "config.json": text, "bind.mounts": mounts})
    container = restored(criu.pod(), changed).start()
    goes_on(container)
    assert container.shell("ls -d /host /dev/evil 2>/dev/null || true") == ""
    assert container.status().annotations == {}


def test_a_log_of_an_archive_is_nobodys_log(criu: Kubelet, archive: Path, tmp_path: Path) -> None:
    """CVE-2026-53489: container.log as a link to a file of the node, read by `kubectl logs`."""
    write(counting(criu.pod()), archive)
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    changed = rewritten(archive, {"container.log": link(str(secret))})
    container = restored(criu.pod(), changed).start()
    goes_on(container)
    assert not container.log_path.is_symlink()
    assert b"secret" not in container.log_path.read_bytes()


@pytest.mark.parametrize("name", ["config.dump", "checkpoint/core-1.img", "rootfs-diff.tar"])
def test_links_in_an_archive_are_refused(criu: Kubelet, archive: Path, name: str) -> None:
    write(counting(criu.pod()), archive)
    changed = rewritten(archive, {name: link("/etc/shadow")})
    error = refused(lambda: restored(criu.pod(), changed))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{name} is no plain file" in error.message
    nothing_is_left(criu.node)


def test_files_of_an_archive_stay_in_the_container(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    outside = Path(f"/var/tmp/podwright-trap-{os.getpid()}")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as diff:
        trap = link("/var/tmp")
        trap.name = "data"
        diff.addfile(trap)
        member = tarfile.TarInfo(f"data/{outside.name}")
        diff.addfile(member)
    changed = rewritten(archive, {"rootfs-diff.tar": layer.getvalue()})
    container = restored(criu.pod(), changed).start()
    assert not outside.exists()
    assert container.shell(f"ls {outside}") == str(outside)


def test_more_than_the_request_allows_is_refused(criu: Kubelet, archive: Path) -> None:
    """What another container was allowed to: a checkpoint carries it, the request does not."""
    privileged = security(capabilities=api.Capability(add_capabilities=["SYS_ADMIN"]))
    write(counting(criu.pod(), linux=privileged), archive)
    container = restored(criu.pod(), archive)
    error = refused(container.start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "CAP_SYS_ADMIN" in error.message
    assert container.status().state == api.CONTAINER_EXITED


def test_filters_and_promises_of_the_request_hold_for_what_is_restored(
    criu: Kubelet, archive: Path
) -> None:
    write(
        counting(
            criu.pod(),
            linux=security(
                seccomp=api.SecurityProfile(profile_type=api.SecurityProfile.Unconfined)
            ),
        ),
        archive,
    )
    strict = security(seccomp=DEFAULT, no_new_privs=True)
    container = restored(criu.pod(), archive, linux=strict).start()
    goes_on(container)
    status = container.shell("cat /proc/1/status")
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


def test_root_does_not_come_back_as_somebody_else(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    nobody = security(
        run_as_user=api.Int64Value(value=1234),
        run_as_group=api.Int64Value(value=1234),
        no_new_privs=True,
        capabilities=api.Capability(drop_capabilities=["ALL"]),
    )
    error = refused(restored(criu.pod(), archive, linux=nobody).start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checkpoint/mountpoints-10.img": b""}, "mountpoints"),
        ({"checkpoint/core-1.img": os.urandom(2000)}, "core"),
        ({"checkpoint/pstree.img": b""}, "pstree"),
        ({"config.dump": b"[]"}, "rootfsImageRef"),
        ({"config.dump": b"\xff"}, "config.dump"),
        ({"rootfs-diff.tar": b"x" * 2000}, "rootfs-diff.tar"),
    ],
)
def test_damage_is_named_and_leaves_nothing(
    criu: Kubelet, archive: Path, change: dict[str, bytes], said: str
) -> None:
    write(counting(criu.pod()), archive)
    changed = rewritten(archive, dict(change))
    error = refused(lambda: restored(criu.pod(), changed).start())
    assert error.code is not grpc.StatusCode.INTERNAL
    assert said in error.message
    criu.clean()
    nothing_is_left(criu.node)


def test_no_archive_at_all_is_named(criu: Kubelet, tmp_path: Path) -> None:
    error = refused(lambda: restored(criu.pod(), tmp_path / "absent.tar"))
    assert (error.code, "absent.tar" in error.message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    error = refused(lambda: restored(criu.pod(), tmp_path))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


# --- pods -------------------------------------------------------------------------------------


def checkpoint_pod(pod: Pod, output: Path, containers: list[Container], **options: str) -> None:
    request = api.CheckpointPodRequest(
        pod_sandbox_id=pod.id,
        output_path=str(output),
        container_ids=[container.id for container in containers],
        options=options,
    )
    pod.kubelet.client.call("CheckpointPod", request, api.CheckpointPodResponse, timeout=120)


def restore_pod(
    kubelet: Kubelet, output: Path, configs: list[api.ContainerConfig]
) -> tuple[Pod, dict[str, Container]]:
    config = kubelet.config()
    request = api.RestorePodRequest(
        checkpoint_path=str(output), config=config, container_configs=configs
    )
    answer = kubelet.client.call("RestorePod", request, api.RestorePodResponse, timeout=120)
    pod = Pod(kubelet, answer.pod_sandbox_id, config)
    kubelet.pods.append(pod)
    by_name = {one.metadata.name: one for one in configs}
    return pod, {
        one.name: Container(kubelet, one.container_id, by_name[one.name])
        for one in answer.restored_containers
    }


def test_a_pod_comes_back_with_all_its_containers(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    containers = [counting(pod), counting(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    for container in containers:
        goes_on(container)
    assert sorted(os.listdir(tmp_path)) == [
        "container-0.tar", "container-1.tar", "pod.dump", "pod.options"
    ]  # fmt: skip
    _, found = restore_pod(criu, tmp_path, [container.config for container in containers])
    assert found.keys() == {container.config.metadata.name for container in containers}
    for container in found.values():
        assert container.status().state == api.CONTAINER_CREATED
        goes_on(container.start())
    nothing_is_left(criu.node)


def test_the_containers_of_a_pod_are_of_one_moment(criu: Kubelet, tmp_path: Path) -> None:
    """One writes a number that the other reads; in the checkpoint neither is ahead."""
    volume = criu.node.directory / "volume-of-a-pod"
    volume.mkdir()
    mount = api.Mount(host_path=str(volume), container_path="/data")
    pod = criu.pod()
    tick = "i=0; while :; do i=$((i+1)); echo $i > /data/new; mv /data/new /data/now; echo $i; done"
    look = "while :; do cat /data/now; done"
    writer = pod.container(["sh", "-c", tick], mounts=[mount]).start()
    until(lambda: len(writer.log()) > 3, "it writes")
    reader = pod.container(["sh", "-c", look], mounts=[mount]).start()
    until(lambda: len(reader.log()) > 3, "it reads")
    checkpoint_pod(pod, tmp_path, [writer, reader])
    wrote, read = (
        int(members(tmp_path / f"container-{index}.tar")["container.log"].split()[-1])
        for index in range(2)
    )
    assert wrote - 10 <= read <= wrote + 1
    assert int(writer.log()[-1]) > wrote + 10
    pod.remove()
    shutil.rmtree(volume)


def test_a_pods_checkpoint_is_of_exactly_its_running_containers(
    criu: Kubelet, tmp_path: Path
) -> None:
    pod = criu.pod()
    one, two = counting(pod), counting(pod)
    stranger = counting(criu.pod())
    for wrong in ([], [one], [one, one, two], [one, two, stranger]):
        error = refused(functools.partial(checkpoint_pod, pod, tmp_path, wrong))
        assert (error.code, "container_ids" in error.message) == (
            grpc.StatusCode.INVALID_ARGUMENT, True
        )  # fmt: skip
    error = refused(lambda: checkpoint_pod(pod, tmp_path, [one, two], fast="yes"))
    assert "'fast'" in error.message
    (tmp_path / "there").touch()
    error = refused(lambda: checkpoint_pod(pod, tmp_path, [one, two]))
    assert "not empty" in error.message
    assert os.listdir(tmp_path) == ["there"]
    goes_on(one)
    nothing_is_left(criu.node)


def test_a_pod_that_can_not_be_restored_leaves_nothing(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    containers = [counting(pod), counting(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    configs = [container.config for container in containers]
    before = len(criu.sandboxes())
    error = refused(lambda: restore_pod(criu, tmp_path, configs[:1]))
    assert "container_configs" in error.message
    (tmp_path / "container-1.tar").write_bytes(b"damaged" * 1000)
    error = refused(lambda: restore_pod(criu, tmp_path, configs))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    other = api.ContainerConfig()
    other.CopyFrom(configs[0])
    other.image.image = criu.pull(f"{REGISTRY}/tests/user:1")
    shutil.copy(tmp_path / "container-0.tar", tmp_path / "container-1.tar")
    error = refused(lambda: restore_pod(criu, tmp_path, [other, configs[1]]))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert len(criu.sandboxes()) == before
    nothing_is_left(criu.node)


def test_a_pods_checkpoint_names_files_beside_it_only(criu: Kubelet, tmp_path: Path) -> None:
    for name in ("../x.tar", "/etc/shadow", "", ".."):
        options = {"version": 1, "containers": {"c": name}}
        (tmp_path / "pod.options").write_text(json.dumps(options))
        config = api.ContainerConfig(metadata=api.ContainerMetadata(name="c"))
        error = refused(functools.partial(restore_pod, criu, tmp_path, [config]))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
