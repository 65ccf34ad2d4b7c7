"""The shared memory of a pod goes with a checkpoint, and comes back before its processes do."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.checkpoints import counting, goes_on, link, members, nothing_is_left, restored, rewritten
from e2e.checkpoints import write as checkpoint
from e2e.kubelet import Kubelet, refused, until
from e2e.test_checkpoint_pod import checkpoint_pod, restore_pod

MEMBER = "devshm-checkpoint.tar"
FILL = """
mkdir -m 750 /dev/shm/sub; echo secret > /dev/shm/sub/file; chmod 640 /dev/shm/sub/file
chown 12:34 /dev/shm/sub/file; ln -s / /dev/shm/link; mkfifo /dev/shm/fifo
dd if=/dev/null of=/dev/shm/hole bs=1M seek=1024 2>/dev/null
exec 5>>/dev/shm/open"""


def test_what_is_in_shared_memory_comes_back(criu: Kubelet, archive: Path) -> None:
    """Also for a process that has a file of it open, and writes to it before and after."""
    first = counting(criu.pod(), f"{FILL}; (while :; do echo tick >&5; sleep 0.1; done) & :")
    checkpoint(first, archive)
    with tarfile.open(fileobj=io.BytesIO(members(archive)[MEMBER])) as memory:
        found = {member.name: member for member in memory}
    assert found.keys() == {"hole", "open", "sub", "sub/file"}
    pod = criu.pod()
    second = restored(pod, archive).start()
    goes_on(second)
    seen = second.shell("stat -c '%a %u %g' /dev/shm/sub /dev/shm/sub/file; cat /dev/shm/sub/file")
    assert seen.splitlines() == ["750 0 0", "640 12 34", "secret"]
    assert second.shell("stat -c '%s %b' /dev/shm/hole") == f"{1 << 30} 0"
    ticks = int(second.shell("wc -l < /dev/shm/open"))
    until(lambda: int(second.shell("wc -l < /dev/shm/open")) > ticks > 0, "it writes on")
    assert second.shell("ls -A /dev/shm") == "hole\nopen\nsub"
    nothing_is_left(criu.node)


def test_without_any_the_archive_has_none(criu: Kubelet, archive: Path) -> None:
    checkpoint(counting(criu.pod()), archive)
    assert MEMBER not in members(archive)


def test_files_that_the_pod_has_are_left_alone(criu: Kubelet, archive: Path) -> None:
    checkpoint(counting(criu.pod(), "echo old > /dev/shm/one; echo old > /dev/shm/two"), archive)
    pod = criu.pod()
    pod.run("echo new > /dev/shm/one")
    goes_on(restored(pod, archive).start())
    assert pod.run("cat /dev/shm/one /dev/shm/two") == ["new", "old"]


def test_memory_of_a_pod_is_restored_once(criu: Kubelet, tmp_path: Path) -> None:
    """By whoever is started first; what a container then removes does not come again."""
    pod = criu.pod()
    containers = [counting(pod, "echo x > /dev/shm/file"), counting(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    assert MEMBER in os.listdir(tmp_path)
    for index in range(2):
        assert MEMBER not in members(tmp_path / f"container-{index}.tar")
    restored_pod, found = restore_pod(criu, tmp_path, [one.config for one in containers])
    writer, reader = (found[one.config.metadata.name] for one in containers)
    goes_on(reader.start())
    assert reader.shell("cat /dev/shm/file; rm /dev/shm/file") == "x"
    goes_on(writer.start())
    assert writer.shell("ls -A /dev/shm") == ""
    nothing_is_left(criu.node)
    restored_pod.remove()


def test_a_pod_that_is_never_started_leaves_no_memory(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    container = counting(pod, "echo x > /dev/shm/file")
    checkpoint_pod(pod, tmp_path, [container])
    made, _ = restore_pod(criu, tmp_path, [container.config])
    assert (criu.node.root / "checkpoints" / made.id / "shm" / "file").exists()
    criu.node.restart_daemon()
    assert (criu.node.root / "checkpoints" / made.id / "shm" / "file").exists()
    made.remove()
    nothing_is_left(criu.node)


def test_the_nodes_own_memory_is_neither_read_nor_written(criu: Kubelet, archive: Path) -> None:
    checkpoint(counting(criu.pod(), "echo x > /dev/shm/of-a-checkpoint"), archive)
    config = criu.config()
    config.linux.security_context.namespace_options.ipc = api.NODE
    pod = criu.pod(config)
    goes_on(restored(pod, archive).start())
    assert not os.path.lexists("/dev/shm/of-a-checkpoint")
    again = archive.with_name("again.tar")
    checkpoint(counting(pod), again)
    assert MEMBER not in members(again)


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member, data in entries:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def named(member: tarfile.TarInfo, name: str, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    member.name = name
    for key, value in fields.items():
        setattr(member, key, value)
    return member, b""


def test_memory_brings_nothing_but_files(criu: Kubelet, archive: Path) -> None:
    """Links out of it, devices, set-user-id programs, capabilities, paths that lead upwards."""
    checkpoint(counting(criu.pod()), archive)
    outside = Path(f"/var/tmp/podwright-memory-{os.getpid()}")
    device = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1}
    program = tarfile.TarInfo("program")
    program.mode, program.pax_headers = 0o6755, {"SCHILY.xattr.user.note": "x"}
    evil = tar(
        named(link("/var/tmp"), "away"),
        (tarfile.TarInfo(f"away/{outside.name}"), b"x"),
        named(tarfile.TarInfo(), "device", **device),
        named(tarfile.TarInfo(), "fifo", type=tarfile.FIFOTYPE),
        (program, b"#!/bin/sh\n"),
    )
    pod = criu.pod()
    goes_on(restored(pod, rewritten(archive, {MEMBER: evil})).start())
    assert not outside.exists()
    listed = pod.run("cd /dev/shm; for f in *; do stat -c '%n %F %a' $f; done")
    assert listed == ["program regular file 755", "var directory 755"]  # its link led inside


@pytest.mark.parametrize(
    ("member", "code"),
    [
        (b"x" * 2000, grpc.StatusCode.FAILED_PRECONDITION),
        (tar(named(tarfile.TarInfo(), "../../out")), grpc.StatusCode.FAILED_PRECONDITION),
        (link("/etc/shadow"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_memory_that_is_none_is_refused(
    criu: Kubelet, archive: Path, member: bytes | tarfile.TarInfo, code: grpc.StatusCode
) -> None:
    checkpoint(counting(criu.pod()), archive)
    changed = rewritten(archive, {MEMBER: member})
    error = refused(lambda: restored(criu.pod(), changed))
    assert (error.code, MEMBER in error.message) == (code, True)
    assert not os.path.lexists(criu.node.root / "out")
    criu.clean()
    nothing_is_left(criu.node)


def test_a_pods_memory_is_no_link_to_a_file_of_the_node(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    container = counting(pod, "echo x > /dev/shm/file")
    checkpoint_pod(pod, tmp_path, [container])
    shutil.move(tmp_path / MEMBER, tmp_path / "elsewhere")
    (tmp_path / MEMBER).symlink_to("elsewhere")
    error = refused(lambda: restore_pod(criu, tmp_path, [container.config]))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    nothing_is_left(criu.node)


def test_more_memory_than_the_pod_has_is_refused(criu: Kubelet, archive: Path) -> None:
    """Each time: nothing of the first attempt is taken for what should have come."""
    checkpoint(counting(criu.pod()), archive)
    changed = rewritten(archive, {MEMBER: tar((tarfile.TarInfo("big"), bytes(80 << 20)))})
    pod = criu.pod()
    for _ in range(2):
        container = restored(pod, changed)
        error = refused(container.start)
        assert "/dev/shm" in error.message
        assert "No space left" in error.message
        assert container.status().state == api.CONTAINER_EXITED
    assert pod.run("ls -A /dev/shm") == []


def test_memory_that_would_fill_the_nodes_disk_is_not_written_down(
    criu: Kubelet, archive: Path
) -> None:
    many = "dd if=/dev/zero of=/dev/shm/0 bs=1M count=20 2>/dev/null"
    many += "; for i in $(seq 40); do ln /dev/shm/0 /dev/shm/$i; done"
    container = counting(criu.pod(), many)
    error = refused(lambda: checkpoint(container, archive))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "the pod's /dev/shm: more than there is room for where it is" in error.message
    goes_on(container)
    nothing_is_left(criu.node)


def test_a_file_of_exabytes_is_named_as_the_reason(criu: Kubelet, archive: Path) -> None:
    container = counting(criu.pod(), "truncate -s 4000000000000000000 /dev/shm/x")
    error = refused(lambda: checkpoint(container, archive))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "the pod's /dev/shm" in error.message
    goes_on(container)
    nothing_is_left(criu.node)
