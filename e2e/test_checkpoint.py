"""Checkpoints: written while the container runs on."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import grpc
import pytest

from e2e.checkpoints import (
    COUNT,
    counting,
    goes_on,
    members,
    nothing_is_left,
    write,
)
from e2e.kubelet import Kubelet, refused, until


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


def test_a_command_that_runs_in_a_container_is_left_out_and_alone(
    criu: Kubelet, archive: Path
) -> None:
    container = counting(criu.pod())
    container.shell("(sleep 2; echo over > /tmp/over) > /dev/null 2>&1 &")
    write(container, archive)
    until(lambda: container.shell("cat /tmp/over 2>/dev/null || true") == "over", "it ended well")


def test_the_command_line_writes_containers_and_pods(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    container = counting(pod)
    program = str(Path(sys.executable).with_name("podwright"))
    for target, place in ((container.id, "one.tar"), (pod.id, "pod")):
        words = (program, "--address", criu.node.address, "checkpoint", target)
        done = criu.node.run(*words, str(tmp_path / place))
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / place}\n"), done.stderr
    assert "config.dump" in members(tmp_path / "one.tar")
    assert "pod.options" in os.listdir(tmp_path / "pod")
    goes_on(container)


def test_checkpointctl_shows_an_archive(criu: Kubelet, archive: Path) -> None:
    program = os.environ.get("PODWRIGHT_CHECKPOINTCTL") or shutil.which("checkpointctl")
    if program is None:
        pytest.skip("checkpointctl is neither on PATH nor in PODWRIGHT_CHECKPOINTCTL")
    container = counting(criu.pod())
    write(container, archive)
    words = [program, "inspect", "--all", str(archive)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for said in (container.config.metadata.name, container.id, "Runtime: podwright", "[1]  sh"):
        assert said in shown
