"""A manifest's pod becomes the messages that kubelet would send."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.cli.pod import container, hosts, manifest, sandbox, volumes
from cri.cli.pod.container import Impossible, Surroundings, expand
from cri.cli.pod.sandbox import Identity
from cri.cli.pod.volumes import PodDirectory, Volume, VolumeFault

WHO = Identity("web", "shop", "uid-1")
IMAGE = api.Image(id="sha256:abc", uid=api.Int64Value(value=1000))
ROOT_IMAGE = api.Image(id="sha256:abc", uid=api.Int64Value(value=0))


def pod(spec: str = "", container: str = "") -> manifest.Fields:
    """A pod of one container, with more lines of the spec and of the container."""
    lines = [
        "kind: Pod",
        "metadata: {name: web, labels: {app: a}, annotations: {note: n}}",
        "spec:",
        *(f"  {line}" for line in spec.splitlines()),
        "  containers:",
        "  - name: main",
        "    image: busybox:1",
        *(f"    {line}" for line in container.splitlines()),
    ]
    return manifest.parse("\n".join(lines), "pod.yaml")


def config(spec: str = "") -> api.PodSandboxConfig:
    return sandbox.config(pod(spec), WHO, PodDirectory(Path("/pods"), "uid-1"))


def made(
    lines: str = "", *, spec: str = "", image: api.Image = IMAGE, **around: object
) -> api.ContainerConfig:
    fields = pod(spec, lines)
    planned, unknown = volumes.plan(
        fields.inner("spec").each("volumes"), PodDirectory(Path("/pods"), "uid-1")
    )
    assert not unknown
    surroundings = Surroundings(fields, WHO, planned, "10.0.0.9", **around)  # type: ignore[arg-type]  # by name
    return container.config(fields.inner("spec").each("containers")[0], image, surroundings)


def test_a_plain_pod_is_named_labelled_and_logged_as_kubelet_does_it() -> None:
    got = config()
    assert got.metadata == api.PodSandboxMetadata(name="web", namespace="shop", uid="uid-1")
    assert got.hostname == "web"
    assert got.log_directory == "/pods/uid-1/logs"
    assert got.labels["app"] == "a"
    assert got.labels["io.kubernetes.pod.name"] == "web"
    assert got.annotations["note"] == "n"
    options = got.linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == (api.POD, api.CONTAINER, api.POD)
    assert not got.HasField("dns_config")


@pytest.mark.parametrize(
    ("spec", "network", "pid", "ipc"),
    [
        ("hostNetwork: true", api.NODE, api.CONTAINER, api.POD),
        ("hostPID: true", api.POD, api.NODE, api.POD),
        ("hostIPC: true", api.POD, api.CONTAINER, api.NODE),
        ("shareProcessNamespace: true", api.POD, api.POD, api.POD),
    ],
)
def test_namespaces_are_the_nodes_where_asked(
    spec: str, network: api.NamespaceMode, pid: api.NamespaceMode, ipc: api.NamespaceMode
) -> None:
    options = config(spec).linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == (network, pid, ipc)
    assert made(spec=spec).linux.security_context.namespace_options == options


def test_a_pod_on_the_nodes_network_has_neither_hostname_nor_port_mappings() -> None:
    got = sandbox.config(
        pod("hostNetwork: true", "ports: [{containerPort: 80, hostPort: 80}]"),
        WHO,
        PodDirectory(Path("/"), "u"),
    )
    assert got.hostname == ""
    assert not got.port_mappings


def test_ports_of_all_containers_become_port_mappings() -> None:
    got = sandbox.config(
        pod("", "ports: [{containerPort: 53, hostPort: 5353, protocol: UDP, hostIP: 10.0.0.1}]"),
        WHO,
        PodDirectory(Path("/"), "u"),
    )
    assert list(got.port_mappings) == [
        api.PortMapping(protocol=api.UDP, container_port=53, host_port=5353, host_ip="10.0.0.1")
    ]


def test_dns_of_policy_none_is_only_what_the_pod_says() -> None:
    got = config(
        "dnsPolicy: None\n"
        "dnsConfig: {nameservers: [1.1.1.1], searches: [a.b],"
        " options: [{name: ndots, value: '2'}, {name: debug}]}"
    )
    assert got.dns_config == api.DNSConfig(
        servers=["1.1.1.1"], searches=["a.b"], options=["ndots:2", "debug"]
    )


def test_the_nodes_resolver_is_read_as_resolv_conf_5_says(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# x\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a b\nsearch c\noptions x:1\n"
    )
    assert sandbox.nodes_dns(path) == api.DNSConfig(
        servers=["10.0.0.1", "10.0.0.2"], searches=["c"], options=["x:1"]
    )
    assert sandbox.nodes_dns(tmp_path / "none") == api.DNSConfig()


def test_a_privileged_container_makes_its_pod_privileged() -> None:
    fields = pod("", "securityContext: {privileged: true}")
    got = sandbox.config(fields, WHO, PodDirectory(Path("/"), "u"))
    assert got.linux.security_context.privileged
    inner = made("securityContext: {privileged: true}").linux.security_context
    assert inner.privileged
    assert not inner.masked_paths


def test_command_and_arguments_expand_variables_and_leave_the_rest() -> None:
    got = made(
        "command: [echo, $(A)]\nargs: [$(B), $$(A), $(NONE)]\n"
        "env: [{name: A, value: a}, {name: B, value: 'b$(A)'}]"
    )
    assert list(got.command) == ["echo", "a"]
    assert list(got.args) == ["ba", "$(A)", "$(NONE)"]
    assert {item.key: item.value for item in got.envs} == {"A": b"a", "B": b"ba"}


def test_an_expansion_is_not_expanded_again() -> None:
    assert expand("$(A)", {"A": "$(B)", "B": "b"}) == "$(B)"


def test_the_pods_own_fields_reach_the_environment() -> None:
    got = made(
        "env:\n"
        "- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n"
        "- {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}\n"
        "- {name: APP, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}\n"
        "- {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}\n"
    )
    assert {item.key: item.value.decode() for item in got.envs} == {
        "IP": "10.0.0.9",
        "NS": "shop",
        "APP": "a",
    }


def test_an_unknown_field_reference_says_which_are_known() -> None:
    with pytest.raises(Impossible, match=r"status\.hostIP: only metadata\.name"):
        made("env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]")


def test_limits_become_cgroup_figures_by_kubelets_rules() -> None:
    got = made("resources: {limits: {cpu: 500m, memory: 64Mi, hugepages-2Mi: 4Mi}}").linux.resources
    assert (got.cpu_shares, got.cpu_quota, got.cpu_period) == (512, 50_000, 100_000)
    assert got.memory_limit_in_bytes == 64 << 20
    assert got.oom_score_adj == -997
    assert list(got.hugepage_limits) == [api.HugepageLimit(page_size="2MB", limit=4 << 20)]


def test_a_container_that_asks_for_nothing_is_killed_first() -> None:
    got = made().linux.resources
    assert (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes) == (2, 0, 0)
    assert got.oom_score_adj == 1000


def test_requests_alone_give_shares_and_a_middling_score() -> None:
    got = made("resources: {requests: {cpu: 2, memory: 1Mi}}").linux.resources
    assert (got.cpu_shares, got.cpu_quota) == (2048, 0)
    assert 3 <= got.oom_score_adj <= 999


def test_the_user_is_the_containers_then_the_pods_then_the_images() -> None:
    assert made().linux.security_context.run_as_user.value == 1000
    spec = "securityContext: {runAsUser: 5, runAsGroup: 6, fsGroup: 7, supplementalGroups: [8]}"
    got = made("securityContext: {runAsUser: 9}", spec=spec).linux.security_context
    assert (got.run_as_user.value, got.run_as_group.value) == (9, 6)
    assert list(got.supplemental_groups) == [8, 7]
    named = made(image=api.Image(id="x", username="www")).linux.security_context
    assert (named.run_as_username, named.HasField("run_as_user")) == ("www", False)


@pytest.mark.parametrize("image", [ROOT_IMAGE, api.Image(id="x", username="www")])
def test_run_as_non_root_refuses_root_and_names_it_can_not_judge(image: api.Image) -> None:
    with pytest.raises(Impossible, match="runAsNonRoot"):
        made("securityContext: {runAsNonRoot: true}", image=image)
    assert made("securityContext: {runAsNonRoot: true, runAsUser: 7}", image=image)


def test_privileges_are_taken_away_as_asked() -> None:
    got = made(
        "securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true,"
        " capabilities: {add: [NET_RAW], drop: [ALL]}}"
    ).linux.security_context
    assert got.no_new_privs
    assert got.readonly_rootfs
    assert (list(got.capabilities.add_capabilities), list(got.capabilities.drop_capabilities)) == (
        ["NET_RAW"],
        ["ALL"],
    )
    assert "/proc/kcore" in got.masked_paths
    assert "/proc/sys" in got.readonly_paths


@pytest.mark.parametrize(
    ("spec", "own", "kind", "reference"),
    [
        ("", "", api.SecurityProfile.RuntimeDefault, ""),
        ("securityContext: {seccompProfile: {type: Unconfined}}", "",
         api.SecurityProfile.Unconfined, ""),
        ("securityContext: {seccompProfile: {type: Unconfined}}",
         "securityContext: {seccompProfile: {type: Localhost, localhostProfile: a.json}}",
         api.SecurityProfile.Localhost, "/var/lib/kubelet/seccomp/a.json"),
    ],
)  # fmt: skip
def test_the_seccomp_profile_is_the_containers_then_the_pods_then_the_runtimes(
    spec: str, own: str, kind: api.SecurityProfile.ProfileType, reference: str
) -> None:
    got = made(own, spec=spec).linux.security_context.seccomp
    assert (got.profile_type, got.localhost_ref) == (kind, reference)


def test_a_stop_signal_is_one_that_exists() -> None:
    assert made("lifecycle: {stopSignal: SIGUSR1}").stop_signal == api.SIGNAL_SIGUSR1
    assert made("lifecycle: {stopSignal: SIGRTMIN+3}").stop_signal == api.SIGNAL_SIGRTMINPLUS3
    with pytest.raises(Impossible, match="SIGFOO"):
        made("lifecycle: {stopSignal: SIGFOO}")


def test_volumes_are_mounted_where_asked() -> None:
    got = made(
        "volumeMounts:\n"
        "- {name: data, mountPath: /data, readOnly: true}\n"
        "- {name: fast, mountPath: /fast}\n"
        "- {name: node, mountPath: /node, mountPropagation: Bidirectional}\n",
        spec="volumes:\n"
        "- {name: data, emptyDir: {}}\n"
        "- {name: fast, emptyDir: {medium: Memory}}\n"
        "- {name: node, hostPath: {path: /srv}}\n",
        hosts_file="/pods/uid-1/etc-hosts",
    )
    assert [(m.container_path, m.host_path, m.readonly, m.propagation) for m in got.mounts] == [
        ("/data", "/pods/uid-1/volumes/data", True, api.PROPAGATION_PRIVATE),
        ("/fast", "/dev/shm/podwright-uid-1/fast", False, api.PROPAGATION_PRIVATE),
        ("/node", "/srv", False, api.PROPAGATION_BIDIRECTIONAL),
        ("/etc/hosts", "/pods/uid-1/etc-hosts", False, api.PROPAGATION_PRIVATE),
    ]


def test_a_mount_of_a_volume_that_the_pod_has_not_is_refused() -> None:
    with pytest.raises(Impossible, match="main mounts volume x, the pod has: y"):
        made("volumeMounts: [{name: x, mountPath: /x}]", spec="volumes: [{name: y, emptyDir: {}}]")


def test_volumes_which_only_a_cluster_fills_are_empty_and_others_are_unknown() -> None:
    fields = pod(
        "volumes:\n- {name: c, configMap: {name: x}}\n"
        "- {name: p, persistentVolumeClaim: {claimName: x}}"
    )
    planned, unknown = volumes.plan(
        fields.inner("spec").each("volumes"), PodDirectory(Path("/p"), "u")
    )
    assert planned == {"c": Volume("c", Path("/p/u/volumes/c"), empty=True)}
    assert [volume.text("name") for volume in unknown] == ["p"]
    assert "spec.volumes[0].configMap" in list(fields.unread())


def test_an_empty_volume_belongs_to_the_fs_group(tmp_path: Path) -> None:
    group = os.getgid()
    volume = Volume("v", tmp_path / "v", empty=True)
    volume.make(group)
    found = (tmp_path / "v").stat()
    assert (found.st_gid, found.st_mode & 0o7777) == (group, 0o2777)


def test_a_host_path_is_what_its_type_says(tmp_path: Path) -> None:
    Volume("d", tmp_path / "a/b", kind="DirectoryOrCreate").make()
    assert (tmp_path / "a/b").is_dir()
    Volume("f", tmp_path / "file", kind="FileOrCreate").make()
    assert (tmp_path / "file").is_file()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        Volume("s", tmp_path / "socket", kind="Socket").make()
    with pytest.raises(VolumeFault, match="is not a directory"):
        Volume("x", tmp_path / "file", kind="Directory").make()
    with pytest.raises(VolumeFault, match="does not exist"):
        Volume("x", tmp_path / "none", kind="File").make()


def test_a_sub_path_can_not_lead_out_of_its_volume(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/link").symlink_to("/etc")
    volume = Volume("v", tmp_path / "v")
    assert volume.inside("a/b") == tmp_path / "v/a/b"
    assert (tmp_path / "v/a/b").is_dir()
    for path in ("../x", "link", "a/../../x"):
        with pytest.raises(VolumeFault, match="leads out of the volume"):
            volume.inside(path)


def test_only_a_directory_that_run_has_made_is_removed(tmp_path: Path) -> None:
    strange = PodDirectory(tmp_path, "strange")
    strange.path.mkdir()
    strange.remove()
    assert strange.path.exists()
    ours = PodDirectory(tmp_path, "ours")
    ours.make()
    ours.remove()
    ours.remove()
    assert not ours.path.exists()


def test_host_aliases_come_after_the_pods_own_name(tmp_path: Path) -> None:
    fields = pod("hostAliases: [{ip: 1.2.3.4, hostnames: [a, b]}]")
    aliases = fields.inner("spec").each("hostAliases")
    hosts.write(tmp_path / "hosts", aliases, "web", "10.0.0.9")
    assert (tmp_path / "hosts").read_text().endswith("10.0.0.9\tweb\n1.2.3.4\ta b\n")
    hosts.write(tmp_path / "none", [], "web", "")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("spec", "own", "said"),
    [
        ("", "imagePullPolicy: Sometimes", "'Sometimes' is not one of Always, IfNotPresent, Never"),
        ("", "ports: [{containerPort: 1, protocol: FTP}]", "'FTP' is not one of TCP, UDP, SCTP"),
        ("dnsPolicy: Mine", "", "'Mine' is not one of Default"),
        ("initContainers: [{name: main, image: x}]", "", "there are two containers called main"),
        ("initContainers: [{name: ../x, image: x}]", "", "can't be a container's name"),
        ("initContainers: [{name: x}]", "", "a container needs an image"),
    ],
)
def test_what_an_api_server_would_refuse_is_refused(spec: str, own: str, said: str) -> None:
    assert any(said in problem.text for problem in sandbox.problems(pod(spec, own)))


def test_a_good_pod_has_no_problems() -> None:
    assert sandbox.problems(pod()) == []
