"""System V IPC: semaphores, queues and shared memory of a pod that is alone with them."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.checkpoints import counting, goes_on, members, restored, rewritten, write
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.test_checkpoint_pod import checkpoint_pod, restore_pod
from e2e.test_user_namespaces import user_pod

MOUNTS = [
    api.Mount(host_path=path, container_path=path, readonly=True)
    for path in ("/usr", "/lib", "/lib64")
]
"""The node's Python, with its libraries."""
USE = """
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
memory = libc.shmget(0x1234, 8192, 0o1600)
at = libc.shmat(memory, None, 0)
spare = libc.shmget(0x2345, 4096, 0o1600)
semaphore = libc.semget(0x1234, 2, 0o1600)
libc.semctl(semaphore, 1, 16, 5)
queue = libc.msgget(0x1234, 0o1600)
libc.msgsnd(queue, ctypes.create_string_buffer(b"\\1\\0\\0\\0\\0\\0\\0\\0hello"), 5, 0)
number = 0
while True:
    number += 1
    ctypes.memmove(at, str(number).encode().ljust(10), 10)
    print(number, libc.semctl(semaphore, 1, 12), flush=True)
    time.sleep(0.1)
"""
LOOK = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(libc.shmget(0x1234, 8192, 0), None, 0)
print(ctypes.string_at(at, 10).decode().strip())
print(libc.semctl(libc.semget(0x1234, 2, 0), 1, 12))
buffer = ctypes.create_string_buffer(100)
print(libc.msgrcv(libc.msgget(0x1234, 0), buffer, 50, 0, 0), buffer[8:13].decode())
print(open("/proc/sys/kernel/shmmni").read().strip())
"""


def using(pod: Pod) -> Container:
    words = ["/usr/bin/python3", "-I", "-c", USE]
    container = pod.container(words, mounts=MOUNTS).start()
    until(lambda: len(container.log()) > 3, "it counts")
    return container


def is_used(pod: Pod, container: Container) -> None:
    """The container goes on with what it had, and so may another of its pod."""
    until(lambda: len(container.log()) > 3, "it counts on")
    numbers, values = zip(*(map(int, line.split()) for line in container.log()), strict=True)
    assert numbers == tuple(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] > 3
    assert set(values) == {5}
    other = pod.container(["/usr/bin/python3", "-I", "-c", LOOK], mounts=MOUNTS).start()
    assert other.wait().exit_code == 0
    seen, value, message, segments = other.log()
    assert int(seen) >= numbers[0]
    assert (value, message, segments) == ("5", "5 hello", "4096")


def test_what_a_pod_shares_comes_back_and_is_shared(criu: Kubelet, archive: Path) -> None:
    first = using(criu.pod())
    write(first, archive)
    pod = criu.pod()
    second = restored(pod, archive, mounts=MOUNTS).start()
    is_used(pod, second)
    criu.node.restart_daemon()
    again = archive.with_name("again.tar")
    write(second, again)
    assert second.shell("true") == ""


def test_of_a_pod_with_users_of_its_own_too(criu: Kubelet, archive: Path) -> None:
    write(using(user_pod(criu)), archive)
    pod = user_pod(criu)
    is_used(pod, restored(pod, archive, mounts=MOUNTS).start())


def test_without_any_the_namespace_is_the_pods(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    assert not any("ipcns" in name for name in members(archive))
    pod = criu.pod()
    other = pod.container().start()
    second = restored(pod, archive).start()
    goes_on(second)
    assert second.shell("readlink /proc/1/ns/ipc") == other.shell("readlink /proc/1/ns/ipc")


@pytest.mark.parametrize("ipc", [api.POD, api.NODE])
def test_where_others_have_their_own_it_is_refused(
    criu: Kubelet, archive: Path, ipc: api.NamespaceMode
) -> None:
    write(using(criu.pod()), archive)
    config = criu.config()
    config.linux.security_context.namespace_options.ipc = ipc
    pod = criu.pod(config)
    if ipc == api.POD:
        pod.container().start()
    error = refused(restored(pod, archive, mounts=MOUNTS).start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "System V IPC" in error.message


def test_the_nodes_own_is_in_no_archive(criu: Kubelet, archive: Path) -> None:
    config = criu.config()
    config.linux.security_context.namespace_options.ipc = api.NODE
    write(counting(criu.pod(config)), archive)
    assert not any("ipcns" in name for name in members(archive))


def test_of_a_whole_pod_who_has_it_attached_takes_it_along(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    containers = [counting(pod), using(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    brought = [
        any("ipcns" in name for name in members(tmp_path / f"container-{index}.tar"))
        for index in range(2)
    ]
    assert brought == [False, True]
    made, found = restore_pod(criu, tmp_path, [container.config for container in containers])
    counter, user = (found[container.config.metadata.name] for container in containers)
    user.start()
    goes_on(counter.start())
    is_used(made, user)


def test_its_limits_are_the_requests(criu: Kubelet, archive: Path) -> None:
    """Whatever the archive says; here: of a pod that had other ones."""
    generous = criu.config()
    generous.linux.sysctls["kernel.shmmni"] = "5000"
    write(using(criu.pod(generous)), archive)
    pod = criu.pod()
    is_used(pod, restored(pod, archive, mounts=MOUNTS).start())


def test_damage_is_named(criu: Kubelet, archive: Path) -> None:
    write(using(criu.pod()), archive)
    name = next(name for name in members(archive) if "ipcns-shm" in name)
    error = refused(
        restored(criu.pod(), rewritten(archive, {name: b"\0" * 50}), mounts=MOUNTS).start
    )
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "ipcns-shm" in error.message
