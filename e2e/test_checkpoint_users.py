"""Containers of pods with users of their own: whoever these are on the node."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from pathlib import Path

import grpc

from cri.api import api_pb2 as api
from e2e.checkpoints import (
    counting,
    goes_on,
    link,
    members,
    nothing_is_left,
    restored,
    rewritten,
    write,
)
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.test_attach import attached
from e2e.test_checkpoint_memory import MEMBER, tar
from e2e.test_checkpoint_pod import checkpoint_pod
from e2e.test_container import security
from e2e.test_user_namespaces import ADMIN, FIRST_GROUP, FIRST_USER, IDS, of_status, user_pod

CHANGE = """
echo kept > /root/file; mkdir /home/dir; chown 12:13 /home/dir; echo x > /home/dir/file
echo shared > /dev/shm/file; chown 14:15 /dev/shm/file
exec 5>>/dev/shm/open"""
OWNED = "/root/file /home/dir /home/dir/file /dev/shm/file"


def other_pod(kubelet: Kubelet) -> Pod:
    """With other users of the node."""
    pods = [
        api.IDMapping(container_id=0, host_id=first + 100 * IDS, length=IDS)
        for first in (FIRST_USER, FIRST_GROUP)
    ]
    users = api.UserNamespace(mode=api.POD, uids=pods[:1], gids=pods[1:])
    wanted = api.NamespaceOption(userns_options=users)
    context = api.LinuxSandboxSecurityContext(namespace_options=wanted)
    return kubelet.pod(kubelet.config(linux=api.LinuxPodSandboxConfig(security_context=context)))


def is_whole(container: Container) -> None:
    goes_on(container)
    assert container.shell("cat /root/file /dev/shm/file; id -u").split() == ["kept", "shared", "0"]
    owners = container.shell(f"stat -c %u:%g {OWNED}").split()
    assert owners == ["0:0", "12:13", "0:0", "14:15"]


def test_root_of_a_pod_goes_on_as_root_of_another(criu: Kubelet, archive: Path) -> None:
    first = counting(user_pod(criu), CHANGE)
    write(first, archive)
    goes_on(first)
    pod = other_pod(criu)
    second = restored(pod, archive).start()
    is_whole(second)
    assert of_status(second, "Uid") == [FIRST_USER + 100 * IDS] * 4
    same = pod.container().start()
    facts = "readlink /proc/1/ns/user /proc/1/ns/net; cat /proc/1/uid_map; grep -c . /proc/mounts"
    assert second.shell(facts) == same.shell(facts)
    again = archive.with_name("again.tar")
    write(second, again)
    is_whole(restored(user_pod(criu), again).start())
    nothing_is_left(criu.node)


def test_users_of_an_archive_are_those_that_it_sees(criu: Kubelet, archive: Path) -> None:
    write(counting(user_pod(criu), CHANGE), archive)
    found = members(archive)
    for name, owners in (("rootfs-diff.tar", {0, 12}), (MEMBER, {0, 14})):
        with tarfile.open(fileobj=io.BytesIO(found[name])) as layer:
            assert {member.uid for member in layer} == owners


def test_with_and_without_users_of_ones_own_are_alike(criu: Kubelet, archive: Path) -> None:
    write(counting(user_pod(criu), CHANGE), archive)
    is_whole(restored(criu.pod(), archive).start())
    plain = archive.with_name("plain.tar")
    write(counting(criu.pod(), CHANGE), plain)
    is_whole(restored(user_pod(criu), plain).start())


def test_it_is_a_container_as_any_other(criu: Kubelet, archive: Path) -> None:
    pod = user_pod(criu)
    words = ["sh", "-c", "while read line; do echo said $line; done; exit 7"]
    first = pod.container(words, stdin=True).start()
    until(lambda: first.shell("true") == "", "it runs")
    write(first, archive)
    second = restored(user_pod(criu), archive, stdin=True, stdin_once=True).start()
    criu.node.restart_daemon(how=signal.SIGKILL)
    with attached(second, stdin=True) as client:
        client.send(b"hello\n")
        client.until_said(b"said hello\n")
    assert second.wait().exit_code == 7
    assert second.log() == ["said hello"]


def test_a_terminal_too(criu: Kubelet, archive: Path) -> None:
    words = ["sh", "-c", "stty -echo; while read line; do echo $line $(stty size); done"]
    first = user_pod(criu).container(words, stdin=True, tty=True).start()
    with attached(first, stdin=True, tty=True) as client:
        client.resize(91, 23)
        client.send(b"before\n")
        until(lambda: "before 23 91" in first.log(), "it talks")
    write(first, archive)
    second = restored(user_pod(criu), archive, stdin=True, tty=True).start()
    with attached(second, stdin=True, tty=True) as client:
        client.send(b"after\n")
        client.until_said(b"after 23 91\r\n")


def test_what_is_protected_stays_so(criu: Kubelet, archive: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    mount = api.Mount(host_path=str(tmp_path), container_path="/volume", readonly=True)
    linux = security(masked_paths=["/proc/timer_list", "/proc/keys"], readonly_paths=["/proc/sys"])
    write(counting(user_pod(criu), mounts=[mount], linux=linux), archive)
    second = restored(user_pod(criu), archive, mounts=[mount], linux=linux).start()
    goes_on(second)
    plain = user_pod(criu).container(mounts=[mount], linux=linux).start()
    nested = "umount /proc/keys || umount /volume || mount -o remount,bind,rw /volume"
    for script in (
        "umount /proc/keys || umount /volume || mount -o remount,bind,rw /volume",
        "echo x > /volume/file || echo 1 > /proc/sys/kernel/panic",
        f"unshare -Urm sh -c '{nested}'",
        "cat /proc/timer_list /proc/keys | grep .",
    ):
        for container in (second, plain):
            assert container.exec("sh", "-c", script).exit_code != 0, script
    assert os.listdir(tmp_path) == [archive.name]
    status = "grep -E '^(Cap|Seccomp:)' /proc/1/status"
    assert second.shell(status) == plain.shell(status)


def test_who_could_undo_its_mounts_is_not_restored(criu: Kubelet, archive: Path) -> None:
    write(counting(user_pod(criu)), archive)
    error = refused(lambda: restored(user_pod(criu), archive, linux=security(capabilities=ADMIN)))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert "SYS_ADMIN" in error.message


def test_nobody_comes_from_an_archive_who_is_not_in_the_pod(criu: Kubelet, archive: Path) -> None:
    """Numbers beyond the pod's: of another pod on this node, perhaps, or of nobody."""
    write(counting(user_pod(criu)), archive)
    files = [tarfile.TarInfo(name) for name in ("root/small", "root/large")]
    files[0].uid, files[1].uid = IDS, 2**31 - 1
    files[1].mode = 0o4755
    layer = tar(*((member, b"x") for member in files))
    memory = tarfile.TarInfo("file")
    memory.uid, memory.gid = 5 * IDS, 2**31 - 1
    changed = rewritten(archive, {"rootfs-diff.tar": layer, MEMBER: tar((memory, b"x"))})
    second = restored(user_pod(criu), changed).start()
    goes_on(second)
    top = criu.node.root / "containers" / second.id / "upper" / "root"
    for name in ("small", "large"):
        assert (top / name).stat().st_uid == FIRST_USER + IDS - 2
    assert second.shell("stat -c %u:%g /dev/shm/file") == f"{IDS - 1}:{IDS - 1}"


def test_a_link_in_the_place_of_images_leads_nowhere(criu: Kubelet, archive: Path) -> None:
    write(counting(user_pod(criu)), archive)
    changed = rewritten(archive, {"checkpoint/tty-info.img": link("/etc/shadow")})
    error = refused(lambda: restored(user_pod(criu), changed))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_whole_pod_with_users_of_its_own(criu: Kubelet, tmp_path: Path) -> None:
    pod = user_pod(criu)
    containers = [counting(pod, CHANGE), counting(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    config = criu.config(linux=pod.config.linux)
    request = api.RestorePodRequest(
        checkpoint_path=str(tmp_path),
        config=config,
        container_configs=[container.config for container in containers],
    )
    answer = criu.client.call("RestorePod", request, api.RestorePodResponse, timeout=60)
    made = Pod(criu, answer.pod_sandbox_id, config)
    criu.pods.append(made)
    first, second = (
        Container(criu, one.container_id, container.config).start()
        for one, container in zip(answer.restored_containers, containers, strict=True)
    )
    is_whole(first)
    goes_on(second)


def test_who_shares_processes_and_has_users_of_its_own_is_not_restored(
    criu: Kubelet, archive: Path
) -> None:
    write(counting(user_pod(criu, pid=api.POD)), archive)
    error = refused(lambda: restored(user_pod(criu, pid=api.POD), archive))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert "pid namespace" in error.message
