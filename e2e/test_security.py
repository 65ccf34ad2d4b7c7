"""Attacks through CRI: what a hostile image or container tries, and does not get."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from e2e import images
from e2e.images import Entry, Image, Layer, Registry, directory, hardlink, symlink
from e2e.kubelet import Kubelet, Pod, attempt, refused, until
from e2e.node import REGISTRY, Node
from e2e.test_container import number, security
from runtime.linux.mount import shows_pid_namespaces

TRAP = Path("/tmp/podwright-trap")


@pytest.fixture
def trap() -> Iterator[Path]:
    """A file of the node that an image's links lead to."""
    TRAP.write_text("untouched")
    yield TRAP
    assert TRAP.read_text() == "untouched"
    TRAP.unlink()


def test_links_in_an_image_lead_nowhere_on_the_node(
    kubelet: Kubelet, pod: Pod, trap: Path, tmp_path: Path
) -> None:
    """resolv.conf, hosts, hostname, a volume's and the working directory's place are links."""
    image = api.ImageSpec(image=kubelet.pull(f"{REGISTRY}/tests/traps:1"))
    before = set(os.listdir("/var/tmp"))
    container = pod.container(
        ["sh", "-c", "touch /data/made; pwd; sleep 1000"],
        image=image,
        working_dir="/work",
        mounts=[api.Mount(container_path="/data/inner", host_path=str(tmp_path))],
    )
    attempt(container.start)
    assert set(os.listdir("/var/tmp")) - before == set()
    assert trap.exists()


def test_users_are_not_looked_up_in_the_nodes_files(kubelet: Kubelet, pod: Pod) -> None:
    """The image's /etc/passwd is a link to the node's /etc/shadow: a line of it must not leak."""
    image = api.ImageSpec(image=kubelet.pull(f"{REGISTRY}/tests/traps:1"))
    container = pod.container(["true"], image=image, linux=security(run_as_username="root"))
    error = refused(container.start)
    assert "$" not in error.message.replace("$PATH", "")


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("dotdot", [Entry("../../../../../../tmp/podwright-trap", b"owned")]),
        ("absolute", [Entry("/tmp/podwright-trap", b"inside is fine")]),
        ("link", [symlink("out", "/tmp"), Entry("out/podwright-trap", b"owned")]),
        ("up", [symlink("out", "../../../../../../../tmp"), Entry("out/podwright-trap", b"owned")]),
        ("hard", [hardlink("file", "../../../../../../../tmp/podwright-trap")]),
        ("hard2", [symlink("out", "/tmp"), hardlink("file", "out/podwright-trap")]),
        ("whiteout", [Entry("../../../../../../tmp/.wh.podwright-trap")]),
        ("whiteout2", [symlink("out", "/tmp"), Entry("out/.wh.podwright-trap")]),
        ("opaque", [symlink("out", "/tmp"), Entry("out/.wh..wh..opq")]),
        ("device", [Entry("disk", kind=tarfile.BLKTYPE)]),
    ],
)
def test_a_layer_can_not_leave_its_directory(
    kubelet: Kubelet, node: Node, trap: Path, name: str, entries: list[Entry]
) -> None:
    image = Image([images.busybox(), Layer.of([directory("d"), *entries])], {"Labels": {"n": name}})
    reference = node.inside(lambda: image.push(Registry(REGISTRY), f"attack/{name}", "1"))
    attempt(lambda: kubelet.pull(reference))
    assert trap.read_text() == "untouched"
    assert trap.stat().st_nlink == 1


def test_the_root_file_system_is_mounted_nowhere_on_the_node(node: Node, pod: Pod) -> None:
    before = node.inventory()["mounts"]
    pod.container().start()
    assert node.inventory()["mounts"] - before == set()


def test_a_container_sees_no_descriptor_of_ours(pod: Pod) -> None:
    assert pod.run("ls /proc/self/fd | tr '\\n' ' '") == ["0 1 2 3 "]  # 3: the directory itself
    container = pod.container().start()
    assert container.shell("ls /proc/self/fd | tr '\\n' ' '") == "0 1 2 3"


def test_a_container_sees_no_memory_nor_environment_of_ours(pod: Pod) -> None:
    assert pod.run("tr '\\0' '\\n' < /proc/self/environ | grep -ci podwright || true") == ["0"]


def test_the_rights_of_a_plain_container_are_few(pod: Pod) -> None:
    status = pod.run("grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status")
    values = dict(line.split(":\t") for line in status)
    assert values["CapEff"] == values["CapBnd"]
    assert int(values["CapEff"], 16) & 1 << 21 == 0, "no CAP_SYS_ADMIN"


def test_dropping_all_leaves_nothing_even_to_set_uid_programs(pod: Pod) -> None:
    linux = security(
        run_as_user=number(1000),
        no_new_privs=True,
        capabilities=api.Capability(drop_capabilities=["ALL"]),
    )
    status = pod.run("grep ^Cap /proc/self/status | sort -u -k 2", linux=linux)
    assert [line.split()[1] for line in status] == ["0000000000000000"]


def runtime_default() -> api.LinuxContainerConfig:
    profile = api.SecurityProfile(profile_type=api.SecurityProfile.RuntimeDefault)
    return security(seccomp=profile)


@pytest.mark.parametrize(
    "script",
    [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs x /tmp",
        "mknod /tmp/sda b 8 0 && cat /tmp/sda",
        "cat /proc/sys/kernel/panic > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "dmesg",
        "hostname other",
        "cat /sys/kernel/uevent_helper > /sys/kernel/uevent_helper",
    ],
)
def test_what_would_change_the_node_is_refused(pod: Pod, script: str) -> None:
    linux = runtime_default()
    linux.security_context.masked_paths.append("/proc/kcore")
    linux.security_context.readonly_paths.extend(["/proc/sys", "/proc/sysrq-trigger"])
    container = pod.container(["sh", "-c", script], linux=linux).start()
    assert container.wait().exit_code != 0


def test_masked_and_read_only_paths_are_and_an_empty_list_unmasks(pod: Pod) -> None:
    linux = security(masked_paths=["/proc/version", "/sys/firmware"], readonly_paths=["/tmp"])
    said = pod.run(
        "wc -c < /proc/version; ls /sys/firmware | wc -l; touch /tmp/x 2>&1 || true",
        linux=linux,
    )
    assert said[:2] == ["0", "0"]
    assert "Read-only" in said[2]
    assert pod.run("test $(wc -c < /proc/version) -gt 0 && echo bare") == ["bare"]


def test_a_masked_path_that_is_a_link_masks_nothing_of_the_node(
    kubelet: Kubelet, pod: Pod, node: Node, trap: Path
) -> None:
    image = Image(
        [images.busybox(), Layer.of([symlink("mask", "/../../../../tmp/podwright-trap")])]
    )
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "attack/mask", "1"))
    spec = api.ImageSpec(image=kubelet.pull(reference))
    container = pod.container(["true"], image=spec, linux=security(masked_paths=["/mask"]))
    attempt(container.start)
    assert trap.read_text() == "untouched"


def test_a_proc_that_is_a_link_or_a_file_is_refused(kubelet: Kubelet, pod: Pod, node: Node) -> None:
    """CVE-2019-16884 and its like: procfs mounted elsewhere leaves /proc forged."""
    image = Image([images.busybox(), Layer.of([symlink("proc", "/tmp")])])
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "attack/proc", "1"))
    container = pod.container(["true"], image=api.ImageSpec(image=kubelet.pull(reference)))
    assert "/proc" in refused(container.start).message


def test_an_exec_can_not_be_caught_by_the_containers_files(kubelet: Kubelet, pod: Pod) -> None:
    """CVE-2019-5736: what an exec runs must not be reachable as /proc/self/exe from inside."""
    container = pod.container().start()
    assert container.shell("readlink /proc/self/exe") == "/bin/busybox"
    script = "for p in /proc/[0-9]*; do readlink $p/exe; done | sort -u"
    assert container.shell(script) == "/bin/busybox"
    assert "python" not in container.shell("cat /proc/[0-9]*/maps | grep -c python || true; true")


def test_an_image_can_not_run_the_nodes_interpreter_and_change_its_file(
    kubelet: Kubelet, pod: Pod, node: Node
) -> None:
    """CVE-2019-5736 again: the command is a link to /proc/self/exe, which is init's until execve;
    the loader, and so all that really runs, is the image's own."""
    interpreter = Path(sys.executable).resolve()
    before = interpreter.stat()
    attack = [
        directory("lib64"),
        Entry("lib64/ld-linux-x86-64.so.2", images.BUSYBOX.read_bytes(), 0o755),
        Entry("lib/ld-linux-aarch64.so.1", images.BUSYBOX.read_bytes(), 0o755),
        directory("attack"),
        symlink("attack/chmod", "/proc/self/exe"),
    ]
    image = Image([images.busybox(), Layer.of(attack)])
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "attack/exe", "1"))
    mode = f"{before.st_mode & 0o7777:o}"  # as it is: nothing happens if it should succeed
    container = pod.container(
        ["/attack/chmod", mode, "/proc/self/exe"],
        image=api.ImageSpec(image=kubelet.pull(reference)),
    ).start()
    assert container.wait().exit_code == 1
    assert "Read-only file system" in container.log()[0]
    assert interpreter.stat().st_ctime_ns == before.st_ctime_ns


def test_the_nodes_null_device_is_in_no_containers_hands(pod: Pod) -> None:
    """Its owner, root, is the container's root too: who has it could chmod it for the node."""
    linux = security(masked_paths=["/proc/version"])
    container = pod.container(linux=linux).start()
    node = os.stat("/dev/null")
    theirs = f"{node.st_dev}:{node.st_ino}"
    script = "for fd in 0 1 2; do stat -L -c '%d:%i' /proc/self/fd/$fd; done"
    assert theirs not in container.shell(script).split()
    assert theirs not in pod.run(script)
    refusal = container.exec("sh", "-c", "echo x > /proc/version && touch /proc/version")
    assert b"Read-only file system" in refusal.stderr


def test_a_working_directory_can_not_be_a_descriptor_of_the_node(pod: Pod) -> None:
    """CVE-2024-21626: /proc/self/fd/N as working directory."""
    inodes = {str(os.stat(path).st_ino) for path in ("/", "/work", "/run", "/tmp")}
    for fd in range(3, 12):
        container = pod.container(["ls", "-id", "."], working_dir=f"/proc/self/fd/{fd}")
        if attempt(container.start) is None:
            container.wait()
            assert not {line.split()[0] for line in container.log() if line} & inodes


def test_the_socket_is_for_root_alone(node: Node) -> None:
    mode = (node.state / "podwright.sock").stat()
    assert (mode.st_mode & 0o777, mode.st_uid) == (0o660, 0)
    assert (node.state).stat().st_mode & 0o007 == 0 or mode.st_mode & 0o007 == 0


def test_pods_can_not_read_each_others_files(kubelet: Kubelet, pod: Pod) -> None:
    pod.container().start().shell("echo secret > /dev/shm/s; echo secret > /tmp/s")
    other = kubelet.pod()
    assert other.run("ls /dev/shm /tmp | grep -c s$ || true") == ["0"]


def test_empty_lists_of_paths_leave_proc_as_the_kernel_shows_it(pod: Pod) -> None:
    """procMount: Unmasked, which kubelet says by empty lists."""
    below = "grep -c ' /proc/' /proc/self/mountinfo || true"
    assert pod.run(below, linux=security(masked_paths=[], readonly_paths=[])) == ["0"]
    covered = security(masked_paths=["/proc/keys"], readonly_paths=["/proc/sys"])
    said = pod.run(f"{below}; wc -c < /proc/keys", linux=covered)
    assert said == ["2", "0"]


@pytest.mark.parametrize(
    ("policy", "groups"),
    [(api.SupplementalGroupsPolicy.Merge, [9, 1000, 2000]), (api.Strict, [9, 1000])],
)
def test_groups_of_the_image_come_as_the_policy_says_and_the_status_tells_them(
    pod: Pod, policy: api.SupplementalGroupsPolicy, groups: list[int]
) -> None:
    """What the kernel has, what the status says: the same."""
    linux = security(
        run_as_user=number(1000), supplemental_groups=[9], supplemental_groups_policy=policy
    )
    container = pod.container(linux=linux).start()
    assert sorted(map(int, container.shell("id -G").split())) == groups
    in_kernel = container.shell("grep ^Groups: /proc/1/status").split()[1:]
    assert sorted(map(int, in_kernel)) == groups
    told = container.status().user.linux
    assert (told.uid, told.gid, sorted(told.supplemental_groups)) == (1000, 1000, groups)
    answer = pod.kubelet.client.call("Status", api.StatusRequest(), api.StatusResponse)
    assert answer.features.supplemental_groups_policy


@pytest.mark.parametrize(
    "key", ["rdt.resources.beta.kubernetes.io/pod", "blockio.resources.beta.kubernetes.io/pod"]
)
def test_a_class_of_service_is_not_missing_silently(kubelet: Kubelet, key: str) -> None:
    pod = kubelet.pod(kubelet.config(annotations={key: "gold"}))
    error = refused(lambda: pod.container())
    assert f"sandbox_config.annotations[{key}]" in error.message
    assert "'gold'" in error.message


def test_who_may_trace_the_pods_first_process_finds_nothing_in_it(kubelet: Kubelet) -> None:
    """Of a pod whose containers see each other's processes it is ours, and root's on the node."""
    pod = kubelet.pod(kubelet.config(pid=api.POD))
    tracer = api.Capability(add_capabilities=["SYS_PTRACE"])
    options = api.NamespaceOption(pid=api.POD)
    container = pod.container(
        linux=security(capabilities=tracer, namespace_options=options)
    ).start()
    assert container.shell("cat /proc/1/comm") == "podwright-reape"
    assert container.shell("find /proc/1/root/ -type f; ls /proc/1/fd") == ""
    for change in ("touch /proc/1/root/x", "rmdir /proc/1/root/root", "touch /proc/1/root/shm/x"):
        assert b"Read-only file system" in container.exec("sh", "-c", change).stderr
    held = container.shell("grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNew' /proc/1/status").split()
    assert [int(mask, 16) for mask in held[1::2]] == [0, 0, 0, 0, 1]


def test_who_may_trace_commands_finds_nothing_of_the_node_in_them(pod: Pod) -> None:
    """A command comes into the container's sight when the node is out of its own."""
    tracer = api.Capability(add_capabilities=["SYS_PTRACE"])
    nodes = Path(__file__)  # a file of the node's, and no container's
    look = f"[ ! -e $p/root{nodes} ] || echo $p/root leads to the node"
    script = f"while :; do for p in /proc/[0-9]*; do {look}; done; done"
    container = pod.container(["sh", "-c", script], linux=security(capabilities=tracer)).start()
    for _ in range(20):
        container.exec("true")
    assert container.log() == []


def shows_others() -> bool:
    fd = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return shows_pid_namespaces(fd)
    finally:
        os.close(fd)


WATCH = f"""
while :; do
    for p in /proc/[0-9]*; do
        [ ! -e $p/root{Path(__file__)} ] || echo $p/root leads to the node
        ! grep -qs CapPrm:.000001f $p/status || echo $p can do everything
    done
done
"""
"""Of the processes in sight: which has the node's files, or its privileges?"""


@pytest.mark.parametrize("ipc", [api.POD, api.NODE])
def test_who_may_trace_the_pod_finds_nothing_of_the_node_in_containers_that_start(
    kubelet: Kubelet, ipc: api.NamespaceMode
) -> None:
    options = api.NamespaceOption(pid=api.POD, ipc=ipc)
    context = api.LinuxSandboxSecurityContext(namespace_options=options)
    sandbox = api.LinuxPodSandboxConfig(security_context=context)
    pod = kubelet.pod(kubelet.config(pid=api.POD, linux=sandbox))
    tracer = api.Capability(add_capabilities=["SYS_PTRACE"])
    linux = security(capabilities=tracer, namespace_options=options)
    watcher = pod.container(["sh", "-c", WATCH], linux=linux).start()
    plain = security(namespace_options=options)
    for command in (["true"], ["sh", "-c", "exit 3"], ["cat", "/proc/1/comm"]) * 5:
        container = pod.container(command, linux=plain).start()
        container.wait()
    assert container.log() == ["podwright-reape"]
    assert watcher.log() == []
    failure = refused(pod.container(["/none"], linux=plain).start)
    assert "is not in the image" in failure.message
    living = pod.container(["sh", "-c", "echo $$; exec sleep 1000"], linux=plain).start()
    until(lambda: living.log() != [], "it has said its pid")
    assert watcher.shell(f"cat /proc/{living.log()[0]}/comm") == "sleep"
    living.stop()
    assert living.status().exit_code == 137


@pytest.mark.skipif(not shows_others(), reason="a procfs of others takes Linux 6.17")
def test_who_may_trace_its_container_finds_nothing_of_the_node_in_a_debugger(pod: Pod) -> None:
    """A container that joins another one's pid namespace, as `kubectl debug --target` asks for."""
    tracer = api.Capability(add_capabilities=["SYS_PTRACE"])
    target = pod.container(["sh", "-c", WATCH], linux=security(capabilities=tracer)).start()
    options = api.NamespaceOption(pid=api.TARGET, target_id=target.id)
    for _ in range(10):
        debugger = pod.container(
            ["cat", "/proc/1/comm"], linux=security(namespace_options=options)
        ).start()
        debugger.wait()
    assert debugger.log() == ["sh"]
    assert target.log() == []


def test_a_pod_can_not_fill_the_node_s_state_by_its_etc_files(pod: Pod) -> None:
    container = pod.container(["sleep", "1000"]).start()
    write = "dd if=/dev/zero bs=64k count=64 >> /etc/$f"
    for name in ("hosts", "hostname", "resolv.conf"):
        answer = container.exec("sh", "-c", f"f={name}; {write}")
        assert b"No space left" in answer.stderr
    size = container.shell("du -ck /etc/hosts /etc/hostname /etc/resolv.conf | tail -n 1")
    assert int(size.split()[0]) <= 1100
    assert pod.run("wc -c < /etc/hostname") != ["0"]  # nothing of the pod is the worse for it
