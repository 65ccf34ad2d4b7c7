"""Checkpoints that an enemy has written: what a container is, the request says."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.checkpoints import (
    CRIU,
    DEFAULT,
    counting,
    goes_on,
    link,
    members,
    nothing_is_left,
    restored,
    rewritten,
    write,
)
from e2e.kubelet import Kubelet, refused
from e2e.test_apparmor import DEFAULT as PROFILE
from e2e.test_apparmor import kind, needs_apparmor
from e2e.test_container import security
from runtime.checkpoint.criu import KNOWS_NO_NEW_PRIVILEGES, version
from runtime.checkpoint.wire import read
from runtime.checkpoint.wire import write as write_image


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


def test_the_filter_of_the_request_holds_for_what_is_restored(criu: Kubelet, archive: Path) -> None:
    unconfined = api.SecurityProfile(profile_type=api.SecurityProfile.Unconfined)
    write(counting(criu.pod(), linux=security(seccomp=unconfined)), archive)
    container = restored(criu.pod(), archive, linux=security(seccomp=DEFAULT)).start()
    goes_on(container)
    assert "Seccomp:\t2" in container.shell("cat /proc/1/status")


def test_no_new_privileges_are_got_by_being_restored(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    container = restored(criu.pod(), archive, linux=security(no_new_privs=True))
    if version(CRIU) < KNOWS_NO_NEW_PRIVILEGES:
        error = refused(container.start)
        assert (error.code, "no_new_privs" in error.message) == (
            grpc.StatusCode.UNIMPLEMENTED, True
        )  # fmt: skip
        return
    goes_on(container.start())
    assert "NoNewPrivs:\t1" in container.shell("cat /proc/1/status")


@needs_apparmor
def test_the_profile_of_apparmor_is_the_requests(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod(), linux=security(apparmor=kind("Unconfined"))), archive)
    confined = security(apparmor=kind("RuntimeDefault"))
    container = restored(criu.pod(), archive, linux=confined).start()
    goes_on(container)
    assert container.shell("cat /proc/1/attr/current") == PROFILE


def test_root_does_not_come_back_as_somebody_else(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    nobody = security(
        run_as_user=api.Int64Value(value=1234),
        run_as_group=api.Int64Value(value=1234),
        no_new_privs=True,
        capabilities=api.Capability(drop_capabilities=["ALL"]),
    )
    error = refused(restored(criu.pod(), archive, linux=nobody).start)
    refusals = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
    assert error.code in refusals


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


def opening(archive: Path, name: str) -> Path:
    """The same, but that /data is open by another name."""
    entries = read("files", members(archive)["checkpoint/files.img"])
    for entry in entries:
        if entry.message(3).data(6) == b"/data":
            one = entry.message(3)
            one.set(6, name.encode())
            one.drop(8, 10, 11, 12, 13)  # what it is checked by: size, mode, build-id
            entry.set(3, one)
    return rewritten(archive, {"checkpoint/files.img": write_image("files", entries)})


@pytest.mark.parametrize("pids", [api.CONTAINER, api.NODE])
def test_names_of_open_files_lead_to_none_of_the_node(
    criu: Kubelet, archive: Path, tmp_path: Path, pids: api.NamespaceMode
) -> None:
    """By what CRIU itself has open, or by the root of a process of the node."""
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    config = criu.config()
    config.linux.security_context.namespace_options.pid = pids
    linux = security(namespace_options=api.NamespaceOption(pid=pids))
    first = counting(criu.pod(config), "echo mine > /data; exec 7</data", linux=linux)
    write(first, archive)
    first.remove()
    ways = [f"/proc/self/fd/{number}/{'../' * 9}{secret}" for number in (121, 126)]
    if pids == api.NODE:
        ways = [f"/proc/{os.getpid()}/root{secret}"]
    for way in ways:
        config = criu.config()
        config.linux.security_context.namespace_options.pid = pids
        container = restored(criu.pod(config), opening(archive, way), linux=linux)
        error = refused(container.start)
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "which may lead out of the container" in error.message
        assert container.status().state == api.CONTAINER_EXITED


def test_a_link_among_an_archives_files_leads_to_none_of_the_node(
    criu: Kubelet, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret\n")
    write(counting(criu.pod(), "echo mine > /data; exec 7</data"), archive)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as diff:
        way = link(f"/proc/self/fd/126/{'../' * 9}{tmp_path}/secret")
        way.name = "data"
        diff.addfile(way)
    rewritten(archive, {"rootfs-diff.tar": layer.getvalue()}).rename(archive)
    error = refused(restored(criu.pod(), opening(archive, "/data")).start)
    assert "'/data', which may lead out of the container" in error.message
