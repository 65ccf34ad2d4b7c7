"""Containers with OCI hooks, which change what is made anew, go on from checkpoints too."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc

from cri.api import api_pb2 as api
from cri.cli.client import CallFailed
from e2e.checkpoints import counting, goes_on, nothing_is_left, restored, write
from e2e.kubelet import Kubelet, refused, until
from e2e.test_checkpoint_users import is_whole
from e2e.test_devices import GPU, Edits, Specs, hook, named, specs
from e2e.test_user_namespaces import user_pod

__all__ = ["specs"]  # a fixture
STAGES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def noting(place: Path) -> list[Edits]:
    return [hook(stage, f"echo {stage} >> {place}; cat > /dev/null") for stage in STAGES]


def test_hooks_that_change_mounts_and_ends_run_again(
    criu: Kubelet, archive: Path, specs: Specs, tmp_path: Path
) -> None:
    place = tmp_path / "notes"
    specs.write("etc/gpu.json", {"0": {"hooks": noting(place)[:3] + noting(place)[4:]}})
    device = named(f"{GPU}=0")
    first = counting(criu.pod(), CDI_devices=device)
    write(first, archive)
    goes_on(first)
    first.stop()
    place.unlink()
    second = restored(criu.pod(), archive, CDI_devices=device).start()
    goes_on(second)
    assert place.read_text().split() == ["prestart", "createRuntime", "createContainer"]
    again = archive.with_name("again.tar")
    write(second, again)
    second.stop()
    assert place.read_text().split()[-1] == "poststop"
    goes_on(restored(criu.pod(), again).start())  # without the device, without hooks
    nothing_is_left(criu.node)


def test_what_a_hook_mounts_is_there_when_processes_are(
    criu: Kubelet, archive: Path, specs: Specs, tmp_path: Path
) -> None:
    """A file that a process had open, on a mount that only the hook makes."""
    (tmp_path / "driver").write_text("driver\n")
    script = f"""set -e
bundle=$(sed 's/.*"bundle": "\\([^"]*\\)".*/\\1/')
root=$(sed 's/.*"root": {{"path": "\\([^"]*\\)".*/\\1/' $bundle/config.json)
touch $root/driver
mount --bind {tmp_path}/driver $root/driver"""
    specs.write("etc/gpu.json", {"0": {"hooks": [hook("createContainer", script)]}})
    device = named(f"{GPU}=0")
    first = counting(criu.pod(), "exec 5</driver", CDI_devices=device)
    write(first, archive)
    (tmp_path / "driver").write_text("newest\n")
    second = restored(criu.pod(), archive, CDI_devices=device).start()
    goes_on(second)
    assert second.shell("cat /driver /proc/1/fd/5") == "newest\nnewest"


def test_the_pods_memory_and_users_are_not_in_the_way(
    criu: Kubelet, archive: Path, specs: Specs
) -> None:
    change = "echo kept > /root/file; mkdir /home/dir; chown 12:13 /home/dir"
    shared = "echo x > /home/dir/file; echo shared > /dev/shm/file; chown 14:15 /dev/shm/file"
    write(counting(user_pod(criu), f"{change}; {shared}"), archive)
    specs.write("etc/gpu.json", {"0": {"hooks": [hook("createContainer", "cat > /dev/null")]}})
    is_whole(restored(user_pod(criu), archive, CDI_devices=named(f"{GPU}=0")).start())


def test_a_hook_that_fails_undoes_the_start(criu: Kubelet, archive: Path, specs: Specs) -> None:
    write(counting(criu.pod()), archive)
    fails = hook("prestart", "echo no such GPU >&2; exit 4")
    specs.write("etc/gpu.json", {"0": {"hooks": [fails]}})
    container = restored(criu.pod(), archive, CDI_devices=named(f"{GPU}=0"))
    error = refused(container.start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "prestart hook /bin/sh: exit code 4: no such GPU" in error.message
    assert container.status().state == api.CONTAINER_EXITED


def test_a_child_that_is_killed_while_a_hook_runs_undoes_the_start(
    criu: Kubelet, archive: Path, specs: Specs
) -> None:
    """Here by the hook itself, which knows it as the container's process."""
    write(counting(criu.pod()), archive)
    kill = """kill -9 $(sed 's/.*"pid": \\([0-9]*\\).*/\\1/'); sleep 1000"""
    specs.write(
        "etc/gpu.json", {"0": {"hooks": [hook("prestart", kill), hook("prestart", "exit 1")]}}
    )
    container = restored(criu.pod(), archive, CDI_devices=named(f"{GPU}=0"))
    error = refused(container.start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert container.status().state == api.CONTAINER_EXITED


def test_a_pod_is_removed_while_a_hook_runs(
    criu: Kubelet, archive: Path, specs: Specs, tmp_path: Path
) -> None:
    write(counting(criu.pod()), archive)
    began = tmp_path / "began"
    specs.write("etc/gpu.json", {"0": {"hooks": [hook("prestart", f"touch {began}; sleep 1000")]}})
    pod = criu.pod()
    container = restored(pod, archive, CDI_devices=named(f"{GPU}=0"))
    failed = []

    def start() -> None:
        try:
            container.start()
        except CallFailed as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    until(began.exists, "the hook runs")
    pod.remove()
    thread.join()
    assert len(failed) == 1
    criu.pods.remove(pod)
    nothing_is_left(criu.node)
