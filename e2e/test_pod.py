"""A pod's life and what its containers share."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Kubelet, Pod, refused, until


def test_a_pod_is_ready_with_an_address_and_everything_it_was_given(kubelet: Kubelet) -> None:
    before = time.time_ns()
    pod = kubelet.pod()
    status = pod.status()
    assert status.id == pod.id
    assert len(pod.id) == 64
    assert status.state == api.SANDBOX_READY
    assert status.metadata == pod.config.metadata
    assert status.labels == pod.config.labels
    assert status.annotations == pod.config.annotations
    assert before <= status.created_at <= time.time_ns()
    assert status.network.ip.startswith("10.77.")
    assert [item.ip.startswith("fd77:") for item in status.network.additional_ips] == [True]
    assert status.linux.namespaces.options.network == api.POD


def test_the_same_pod_asked_for_twice_is_one_pod(kubelet: Kubelet) -> None:
    config = kubelet.config()
    with ThreadPoolExecutor(4) as pool:
        pods = list(pool.map(lambda _: kubelet.pod(config), range(4)))
    assert len({pod.id for pod in pods}) == 1
    assert kubelet.pod(config).id == pods[0].id
    assert len(kubelet.sandboxes(label_selector=config.labels)) == 1


def test_another_attempt_is_another_pod(kubelet: Kubelet) -> None:
    config = kubelet.config()
    first = kubelet.pod(config)
    config.metadata.attempt = 1
    assert kubelet.pod(config).id != first.id


def test_a_stopped_pod_is_not_ready_and_stopping_it_again_is_no_error(pod: Pod) -> None:
    container = pod.container().start()
    pod.stop()
    assert pod.status().state == api.SANDBOX_NOTREADY
    assert container.status().state == api.CONTAINER_EXITED
    pod.stop()
    assert refused(pod.container).code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_pod_is_removed_with_its_containers_even_while_they_run(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    container = pod.container().start()
    request = api.RemovePodSandboxRequest(pod_sandbox_id=pod.id)
    kubelet.client.call("RemovePodSandbox", request, api.RemovePodSandboxResponse)
    assert refused(pod.status).code is grpc.StatusCode.NOT_FOUND
    assert refused(container.status).code is grpc.StatusCode.NOT_FOUND
    pod.remove()


def test_what_is_unknown_can_be_stopped_and_removed_but_has_no_status(kubelet: Kubelet) -> None:
    nobody = Pod(kubelet, "f" * 64, kubelet.config())
    nobody.stop()
    nobody.remove()
    assert refused(nobody.status).code is grpc.StatusCode.NOT_FOUND


def test_pods_are_found_by_id_its_beginning_their_state_and_their_labels(kubelet: Kubelet) -> None:
    one, other = kubelet.pod(), kubelet.pod()
    other.stop()

    def ids(**filters: object) -> list[str]:
        return sorted(item.id for item in kubelet.sandboxes(**filters))

    assert {one.id, other.id} <= set(ids())
    assert ids(id=one.id) == [one.id]
    assert ids(id=one.id[:13]) == [one.id]
    assert ids(id="e" * 64) == []
    ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    assert one.id in ids(state=ready)
    assert other.id not in ids(state=ready)
    assert ids(label_selector=dict(one.config.labels)) == [one.id]
    assert ids(label_selector=dict(one.config.labels), state=ready, id=other.id) == []


def test_containers_of_a_pod_meet_over_localhost_and_shared_memory(pod: Pod) -> None:
    server = pod.container(
        [
            "sh",
            "-c",
            "echo page > /tmp/index.html; echo letter > /dev/shm/l; httpd -f -p 80 -h /tmp",
        ]
    ).start()
    until(lambda: server.exec("wget", "-qO-", "http://127.0.0.1/").exit_code == 0, "it serves")
    assert pod.run("wget -qO- http://localhost/; cat /dev/shm/l; hostname") == [
        "page",
        "letter",
        pod.config.hostname,
    ]


def test_containers_of_a_pod_have_one_network_ipc_and_uts_namespace(pod: Pod) -> None:
    script = "for n in net ipc uts mnt pid cgroup; do readlink /proc/self/ns/$n; done"
    first = pod.container().start().shell(script).splitlines()
    second = pod.run(script)
    assert first[:3] == second[:3]
    assert not set(first[3:]) & set(second[3:])


def test_a_container_is_pid_1_of_its_own_processes(pod: Pod) -> None:
    assert pod.run("echo $$; ls -d /proc/[0-9]* | wc -l")[0] == "1"


def test_a_pod_with_one_pid_namespace_shows_its_containers_to_each_other(kubelet: Kubelet) -> None:
    pod = kubelet.pod(kubelet.config(pid=api.POD))
    pod.container(["sleep", "424242"]).start()
    own, *seen = pod.run("echo $$; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert own != "1"
    assert "sleep 424242" in " ".join(seen)


def test_orphans_of_a_shared_pid_namespace_are_reaped(kubelet: Kubelet) -> None:
    pod = kubelet.pod(kubelet.config(pid=api.POD))
    pod.run("(sleep 0.05 &) ; exit 0")
    other = pod.container().start()
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    until(lambda: other.shell(zombies) == "0", "no zombie is left")


def test_a_container_on_the_nodes_pid_namespace_sees_the_node(kubelet: Kubelet) -> None:
    pod = kubelet.pod(kubelet.config(pid=api.NODE))
    seen = pod.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert str(kubelet.node.config) in " ".join(seen)


def test_a_container_may_join_anothers_pid_namespace(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    target = pod.container(["sleep", "434343"]).start()
    options = api.NamespaceOption(pid=api.TARGET, target_id=target.id)
    linux = api.LinuxContainerConfig(
        security_context=api.LinuxContainerSecurityContext(namespace_options=options)
    )
    assert "sleep 434343" in pod.run("cat /proc/1/cmdline | tr '\\0' ' '", linux=linux)[0]


def test_a_target_that_does_not_run_is_refused(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    target = pod.container()
    options = api.NamespaceOption(pid=api.TARGET, target_id=target.id)
    linux = api.LinuxContainerConfig(
        security_context=api.LinuxContainerSecurityContext(namespace_options=options)
    )
    error = refused(lambda: pod.container(linux=linux).start())
    assert target.id[:12] in error.message


def test_a_pod_on_the_nodes_network_has_no_address_of_its_own(kubelet: Kubelet) -> None:
    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    config.hostname = ""
    pod = kubelet.pod(config)
    assert pod.status().network.ip == ""
    assert pod.run("ls /sys/class/net; hostname")[-1] == socket.gethostname()
    assert "podwright0" in " ".join(pod.run("cat /proc/net/dev"))


def test_the_pods_files_say_who_it_is_and_whom_it_asks(kubelet: Kubelet) -> None:
    dns = api.DNSConfig(servers=["10.0.0.53"], searches=["a.b", "c"], options=["ndots:5"])
    pod = kubelet.pod(kubelet.config(dns_config=dns))
    name = pod.config.hostname
    said = pod.run("cat /etc/hostname /etc/resolv.conf; echo $HOSTNAME; cat /etc/hosts")
    assert said[0] == name
    assert sorted(said[1:4]) == ["nameserver 10.0.0.53", "options ndots:5", "search a.b c"]
    assert said[4] == name
    assert any(line.startswith("127.0.0.1") and "localhost" in line for line in said[5:])


def test_sysctls_of_the_pods_own_namespaces_are_set(kubelet: Kubelet) -> None:
    linux = api.LinuxPodSandboxConfig(
        sysctls={"net.ipv4.ip_local_port_range": "2000 2100", "kernel.shm_rmid_forced": "1"}
    )
    pod = kubelet.pod(kubelet.config(linux=linux))
    said = pod.run(
        "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced"
        " /proc/sys/net/ipv4/ip_unprivileged_port_start"
    )
    assert [line.split() for line in said] == [["2000", "2100"], ["1"], ["0"]]


@pytest.mark.parametrize("name", ["kernel.hostname", "vm.swappiness", "net.ipv4.no_such_thing"])
def test_a_sysctl_that_is_not_the_pods_is_refused_and_nothing_is_left(
    kubelet: Kubelet, name: str
) -> None:
    linux = api.LinuxPodSandboxConfig(sysctls={name: "1"})
    config = kubelet.config(linux=linux)
    assert name in refused(lambda: kubelet.pod(config)).message
    assert kubelet.sandboxes(label_selector=config.labels) == []


def test_a_pods_start_leaves_a_timeline(pod: Pod) -> None:
    info = pod.response(verbose=True).info
    assert "RunPodSandbox" in info["timeline"]
    assert '"stages": [{' in info["timeline"]
