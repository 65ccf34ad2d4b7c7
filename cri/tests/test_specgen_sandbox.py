"""What a sandbox is made of, and the files that its containers find in /etc."""

from __future__ import annotations

import signal

import pytest

from cri.api import api_pb2 as api
from cri.config import ContainersConfig
from cri.errors import CriFault, InvalidRequest
from cri.specgen import sandbox, signals
from network.result import PortMapping

NODE = sandbox.Node("node-1", hosts="127.0.0.1 localhost\n", resolv_conf="nameserver 9.9.9.9\n")
DEFAULTS = sandbox.Defaults(ContainersConfig())
WHO = api.PodSandboxMetadata(name="p", namespace="n", uid="u")


def config(options: api.NamespaceOption | None = None, **fields: object) -> api.PodSandboxConfig:
    made = api.PodSandboxConfig(metadata=WHO, **fields)  # type: ignore[arg-type]
    if options:
        made.linux.security_context.namespace_options.CopyFrom(options)
    return made


def test_a_plain_sandbox_shares_its_processes_and_has_all_to_itself() -> None:
    request = sandbox.request("s1", config(hostname="web"), DEFAULTS, NODE)
    assert (request.network, request.ipc, request.pid) == ("pod", "pod", "pod")
    assert request.hostname == "web"
    assert request.cgroup_parent == "/podwright/s1"
    assert request.shm_bytes == 64 << 20
    assert request.sysctls == {
        "net.ipv6.conf.default.accept_ra": "0",
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }


def test_with_the_node_s_network_comes_its_name_and_none_of_our_sysctls() -> None:
    asked = config(api.NamespaceOption(network=api.NODE, pid=api.NODE, ipc=api.NODE))
    request = sandbox.request("s1", asked, DEFAULTS, NODE)
    assert (request.network, request.ipc, request.pid) == ("node", "node", "node")
    assert (request.hostname, request.sysctls) == ("node-1", {})
    assert sandbox.files(asked, NODE)["hostname"] == "node-1\n"


def test_sysctls_of_the_request_win_over_the_defaults() -> None:
    asked = config()
    asked.linux.sysctls["net.ipv4.ip_unprivileged_port_start"] = "80"
    asked.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    found = sandbox.sysctls(asked, ContainersConfig(unprivileged_ping=False))
    assert found["net.ipv4.ip_unprivileged_port_start"] == "80"
    assert found["kernel.shm_rmid_forced"] == "1"
    assert "net.ipv4.ping_group_range" not in found


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (None, "vm.swappiness"),
        (None, "kernel.panic"),
        (api.NamespaceOption(network=api.NODE), "net.core.somaxconn"),
        (api.NamespaceOption(ipc=api.NODE), "kernel.shmmax"),
    ],
)
def test_sysctls_of_the_node_are_refused(options: api.NamespaceOption | None, name: str) -> None:
    asked = config(options)
    asked.linux.sysctls[name] = "1"
    with pytest.raises(InvalidRequest, match=rf"sysctls: {name}"):
        sandbox.sysctls(asked, ContainersConfig())


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("/kubepods/burstable/podX", "/kubepods/burstable/podX"),
        ("kubepods/podX/", "/kubepods/podX"),
        ("/system.slice/kubepods", "/system.slice/kubepods"),
        ("", "/podwright/s1"),
    ],
)
def test_the_cgroup_goes_where_kubelet_says(parent: str, expected: str) -> None:
    asked = config(linux=api.LinuxPodSandboxConfig(cgroup_parent=parent))
    assert sandbox.cgroup_parent("s1", asked, DEFAULTS) == expected


@pytest.mark.parametrize(
    "parent", ["kubepods-podX.slice", "/a/../..", "/", "/a\0b", "/a\nb", "/" + "x" * 256]
)
def test_a_cgroup_parent_of_systemd_or_of_nowhere_is_refused(parent: str) -> None:
    asked = config(linux=api.LinuxPodSandboxConfig(cgroup_parent=parent))
    with pytest.raises(InvalidRequest, match=r"linux\.cgroup_parent"):
        sandbox.cgroup_parent("s1", asked, DEFAULTS)


@pytest.mark.parametrize(
    "name", ["net.ipv4/../../kernel/x", "net.", "net.a\0b", "net.a\n", "fs..x"]
)
def test_what_no_sysctl_is_called_is_refused(name: str) -> None:
    asked = config()
    asked.linux.sysctls[name] = "1"
    with pytest.raises(InvalidRequest, match=r"linux\.sysctls"):
        sandbox.sysctls(asked, ContainersConfig())


@pytest.mark.parametrize("hostname", ["a\nb", "a\0b", "\x1b[31m", "x" * 65])
def test_what_no_host_is_called_is_refused(hostname: str) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.hostname"):
        sandbox.check(config(hostname=hostname))


def test_resolv_conf_is_the_request_s_or_else_the_node_s() -> None:
    dns = api.DNSConfig(
        servers=["10.0.0.10", "fd00::10"], searches=["a.b", "b"], options=["ndots:5"]
    )
    expected = "search a.b b\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n"
    assert sandbox.files(config(dns_config=dns), NODE)["resolv.conf"] == expected
    assert sandbox.files(config(), NODE)["resolv.conf"] == "nameserver 9.9.9.9\n"


@pytest.mark.parametrize(
    "dns",
    [
        api.DNSConfig(servers=["dns.example"]),
        api.DNSConfig(searches=["a\nnameserver 6.6.6.6"]),
        api.DNSConfig(options=[""]),
    ],
)
def test_words_that_would_break_resolv_conf_are_refused(dns: api.DNSConfig) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.dns_config\."):
        sandbox.resolv_conf(dns)


def test_only_ports_of_the_node_are_asked_of_the_network() -> None:
    asked = config(
        port_mappings=[
            api.PortMapping(container_port=80),
            api.PortMapping(protocol=api.UDP, container_port=53, host_port=5353, host_ip="::1"),
        ]
    )
    assert sandbox.ports(asked) == (PortMapping(5353, 53, "udp", "::1"),)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (api.PodSandboxConfig(), r"config\.metadata\.name: empty"),
        (api.PodSandboxConfig(metadata=api.PodSandboxMetadata(name="p")), r"metadata\.uid: empty"),
        (config(api.NamespaceOption(pid=api.TARGET)), "TARGET makes sense for a container only"),
        (config(api.NamespaceOption(network=api.CONTAINER)), "network: CONTAINER: must be POD or"),
        (config(hostname="h" * 65), "more than 64 bytes"),
        (
            config(api.NamespaceOption(userns_options=api.UserNamespace())),
            "userns_options.uids: 0 ranges: there must be one",
        ),
    ],
)
def test_what_no_sandbox_can_be_made_of_is_refused(
    asked: api.PodSandboxConfig, problem: str
) -> None:
    with pytest.raises(CriFault, match=problem):
        sandbox.check(asked)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", signal.SIGTERM),
        ("term", signal.SIGTERM),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("RTMAX-14", 50),
        ("SIGPOLL", signal.SIGIO),
        ("SIGNOPE", None),
        ("0", None),
        ("65", None),
    ],
)
def test_signals_are_known_by_name_and_number(name: str, number: int | None) -> None:
    assert signals.number(name) == number


def test_every_signal_of_cri_is_known_and_comes_back() -> None:
    for name, value in api.Signal.items():
        if value != api.SIGNAL_RUNTIME_DEFAULT:
            number = signals.number(signals.from_api(value))
            assert number is not None, name
            assert signals.number(signals.from_api(signals.to_api(str(number)))) == number
