"""What doctor finds on nodes of different kinds, and what it says is to be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.cli import doctor
from cri.cli.checks import daemon, extensions, kernel, net, storage
from cri.cli.checks.finding import Check, Finding, Level, Place
from cri.config import Config, DevicesConfig, NetworkConfig


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A node whose files are in a directory."""
    for name in ("proc", "sys", "etc", "root", "state"):
        (tmp_path / name).mkdir()
    config = Config(root=str(tmp_path / "root"), state=str(tmp_path / "state"))
    address = f"unix://{tmp_path}/state/podwright.sock"
    return Place(config, address, tmp_path / "proc", tmp_path / "sys", tmp_path / "etc")


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sysctl(place: Place, name: str, value: str) -> None:
    put(place.proc / "sys" / name.replace(".", "/"), f"{value}\n")


def levels(check: Check, place: Place) -> list[Level]:
    return [finding.level for finding in check(place)]


@pytest.mark.parametrize(
    ("release", "level"),
    [
        ("5.12.0-1-amd64", Level.OK),
        ("6.1.0", Level.OK),
        ("5.11.22", Level.FAIL),
        ("4.19.0", Level.FAIL),
        ("strange", Level.FAIL),
    ],
)
def test_a_kernel_is_new_enough_or_stands_in_the_way(
    place: Place, release: str, level: Level
) -> None:
    sysctl(place, "kernel.osrelease", release)
    assert levels(kernel.version, place) == [level]


def test_a_node_without_cgroups_can_not_run_pods(place: Place) -> None:
    put(place.proc / "self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")
    (found,) = kernel.cgroups(place)
    assert found.level is Level.FAIL


def test_cgroup_version_1_works_and_is_noted(place: Place) -> None:
    controllers = ("cpu", "cpuset", "memory", "pids", "devices", "freezer")
    top = place.sys / "fs/cgroup"
    lines = [f"30 1 0:1 / {top}/{n} rw - cgroup cgroup rw,{n}" for n in controllers]
    put(place.proc / "self/mountinfo", "\n".join(lines) + "\n")
    good, known = kernel.cgroups(place)
    assert (good.level, known.level) == (Level.OK, Level.NOTE)
    assert "failCgroupV1" in known.remedy


def test_a_missing_controller_is_named(place: Place) -> None:
    top = place.sys / "fs/cgroup"
    put(place.proc / "self/mountinfo", f"30 1 0:1 / {top}/cpu rw - cgroup cgroup rw,cpu\n")
    found = next(iter(kernel.cgroups(place)))
    assert found.level is Level.WARN
    assert "cpuset, memory, pids" in found.text


def test_user_namespaces_that_are_switched_off_are_noted(place: Place) -> None:
    for kind in ("net", "mnt", "pid", "ipc", "uts", "cgroup", "user"):
        put(place.proc / "self/ns" / kind, "")
    sysctl(place, "user.max_user_namespaces", "0")
    assert levels(kernel.namespaces, place) == [Level.OK, Level.NOTE]
    sysctl(place, "user.max_user_namespaces", "100")
    assert levels(kernel.namespaces, place) == [Level.OK, Level.OK]


def test_small_limits_say_which_value_would_do(place: Place) -> None:
    sysctl(place, "kernel.pid_max", "32768")
    sysctl(place, "fs.inotify.max_user_instances", "8192")
    found = [f for f in kernel.limits(place) if "pid_max" in f.text]
    assert [f.remedy for f in found] == ["sysctl kernel.pid_max=65536"]
    assert not [f for f in kernel.limits(place) if "inotify" in f.text]


@pytest.mark.parametrize(
    ("swaps", "level"), [("", Level.OK), ("/dev/sda2 partition 1 0 -2\n", Level.NOTE)]
)
def test_swap_is_noted(place: Place, swaps: str, level: Level) -> None:
    put(place.proc / "swaps", f"Filename Type Size Used Priority\n{swaps}")
    assert levels(kernel.swap, place) == [level]


def test_an_enforcing_selinux_is_told(place: Place) -> None:
    assert levels(kernel.selinux, place) == [Level.OK]
    put(place.sys / "fs/selinux/enforce", "1")
    assert levels(kernel.selinux, place) == [Level.WARN]


def test_apparmor_without_our_profile_is_to_be_mended(place: Place) -> None:
    assert levels(kernel.apparmor, place) == [Level.NOTE]
    put(place.sys / "module/apparmor/parameters/enabled", "Y\n")
    [hidden] = kernel.apparmor(place)
    assert (hidden.level, "securityfs" in hidden.remedy) == (Level.WARN, True)
    put(place.sys / "kernel/security/apparmor/profiles", "/usr/bin/man (enforce)\n")
    [missing] = kernel.apparmor(place)
    assert (missing.level, "apt install apparmor" in missing.remedy) == (Level.WARN, True)
    put(place.sys / "kernel/security/apparmor/profiles", "a (b) (enforce)\npodwright-default (x)\n")
    assert levels(kernel.apparmor, place) == [Level.OK]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("nameserver 10.0.0.1\n", Level.OK),
        ("nameserver 127.0.0.53\noptions edns0\n", Level.NOTE),
        ("nameserver 127.0.0.53\nnameserver 10.0.0.1\n", Level.OK),
        ("# nothing\n", Level.NOTE),
    ],
)
def test_a_resolver_that_pods_can_not_reach_is_noted(place: Place, text: str, level: Level) -> None:
    put(place.etc / "resolv.conf", text)
    assert levels(net.resolver, place) == [level]


def test_without_any_network_it_is_said_what_was_found(place: Place, tmp_path: Path) -> None:
    put(tmp_path / "cni/10-some.conflist", "{}")
    off = NetworkConfig(cni_conf_dir=str(tmp_path / "cni"))
    (found,) = net.network(dataclasses.replace(place, config=Config(network=off)))
    assert found.level is Level.WARN
    assert "10-some.conflist" in found.text
    on = NetworkConfig(enabled=True)
    assert levels(net.network, dataclasses.replace(place, config=Config(network=on))) == [Level.OK]


@pytest.mark.root
def test_an_overlay_is_really_made_and_nothing_of_it_is_left(place: Place) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert levels(storage.overlay, place) == [Level.OK]
    assert list(Path(place.config.root).iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_root_that_is_not_there_yet_is_judged_by_where_it_would_be(
    place: Place, tmp_path: Path
) -> None:
    config = Config(root=str(tmp_path / "root/not/yet"))
    assert storage.existing(Path(config.root)) == tmp_path / "root"
    (found,) = storage.room(dataclasses.replace(place, config=config))
    assert str(tmp_path / "root") in found.text


@pytest.mark.root
def test_links_and_nftables_are_tried_in_a_network_of_their_own(place: Place) -> None:
    before = Path("/proc/net/dev").read_text().count(":")
    assert levels(net.links, place) == [Level.OK]
    assert levels(net.nftables, place) == [Level.OK]
    assert Path("/proc/net/dev").read_text().count(":") == before


def test_a_daemon_that_does_not_run_is_to_be_started(place: Place) -> None:
    (found,) = daemon.answers(place)
    assert found.level is Level.NOTE
    assert "podwright serve" in found.remedy
    assert levels(daemon.spawner, place) == []


def test_crictl_is_told_where_the_socket_is(place: Place) -> None:
    assert levels(daemon.crictl, place) == [Level.NOTE]
    put(place.etc / "crictl.yaml", f"runtime-endpoint: {place.address}\n")
    assert levels(daemon.crictl, place) == [Level.OK]


def test_a_check_that_breaks_is_a_finding_and_not_the_end(place: Place) -> None:
    def broken(_place: Place) -> Iterator[Finding]:
        raise PermissionError(1, "not allowed")
        yield

    (found, _) = doctor.examine(place, (broken, daemon.crictl))
    assert (found.level, found.about) == (Level.WARN, "broken")
    assert "not allowed" in found.text


def test_every_finding_that_is_not_good_says_what_to_do(place: Place) -> None:
    for finding in doctor.examine(place):
        assert finding.level is Level.OK or finding.remedy, finding


def test_a_file_of_devices_that_can_not_be_read_is_to_be_mended(
    place: Place, tmp_path: Path
) -> None:
    there = dataclasses.replace(
        place, config=dataclasses.replace(Config(), devices=DevicesConfig((str(tmp_path / "cdi"),)))
    )
    (none,) = extensions.named_devices(there)
    assert (none.level, none.text[:9]) == (Level.OK, "0 by name")
    good = '{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{"name": "x"}, {"name": "y"}]}'
    put(tmp_path / "cdi/good.json", good)
    put(tmp_path / "cdi/bad.yaml", "kind: [")
    known, broken = extensions.named_devices(there)
    assert (known.level, known.text[:9]) == (Level.OK, "2 by name")
    assert (broken.level, "bad.yaml" in broken.text) == (Level.WARN, True)
