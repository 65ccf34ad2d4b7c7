"""What doctor finds of handlers, CRIU, plugins and the files that the configuration names."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.cli.checks import extensions, runtimes, serving
from cri.cli.checks.finding import Check, Finding, Level, Place
from cri.config import Config, parse
from runtime.monitor.program import PATH

Placed = Callable[[str], Place]

PEM = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2
 -subj /CN=node -keyout {0}/key.pem -out {0}/cert.pem
"""


@pytest.fixture
def placed(tmp_path: Path) -> Placed:
    """A node whose configuration is a TOML text, and whose daemon does not run."""

    def make(text: str) -> Place:
        config = parse(text, base=Config(root=str(tmp_path / "root"), state=str(tmp_path)))
        return Place(config, f"unix://{tmp_path}/none.sock", sys=tmp_path / "sys")

    return make


def one(check: Check, place: Place) -> Finding:
    """The finding on what the test has configured; the embedded runtime has one of its own."""
    (found,) = (item for item in check(place) if item.about != "handler podwright")
    return found


def program(path: Path, script: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def oci(path: Path | str, more: str = "") -> str:
    return f'[runtime.handlers.x]\ntype = "oci"\npath = "{path}"\n{more}'


@pytest.mark.parametrize("name", ["runc", "crun", "runsc"])
def test_a_program_that_is_there_says_which_it_is(placed: Placed, name: str) -> None:
    path = shutil.which(name, path=PATH)
    if path is None:
        pytest.skip(f"{name} is not installed")
    found = one(runtimes.handlers, placed(oci(path)))
    assert (found.level, found.about) == (Level.OK, "handler x")
    assert found.text.startswith(f"{name} version ")


@pytest.mark.parametrize(
    ("mode", "said"), [(None, "there is no program"), (0o644, "is not executable")]
)
def test_a_program_that_can_not_be_run_is_told_with_the_reason(
    placed: Placed, tmp_path: Path, mode: int | None, said: str
) -> None:
    path = tmp_path / "runc"
    if mode is not None:
        program(path, "exit 0", mode)
    found = one(runtimes.handlers, placed(oci(path)))
    assert (found.level, said in found.text, str(path) in found.text) == (Level.WARN, True, True)
    assert found.remedy


def test_an_argument_that_the_program_does_not_know_is_told_in_its_own_words(
    placed: Placed,
) -> None:
    path = shutil.which("runsc", path=PATH)
    if path is None:
        pytest.skip("runsc is not installed")
    found = one(runtimes.handlers, placed(oci(path, 'arguments = ["--platform=none"]')))
    assert found.level is Level.WARN
    assert "unknown platform: none" in found.text
    assert "arguments" in found.remedy


def test_a_scope_of_its_own_and_a_platform_without_its_device_are_told(
    placed: Placed, tmp_path: Path
) -> None:
    path = program(tmp_path / "runsc", "echo runsc version 1")
    place = placed(oci(path, 'arguments = ["--systemd-cgroup"]'))
    assert "scope of its own" in one(runtimes.handlers, place).text
    if not os.access("/dev/kvm", os.W_OK):
        place = placed(oci(path, 'arguments = ["--platform=kvm"]'))
        assert "/dev/kvm" in one(runtimes.handlers, place).text


def test_crun_on_a_hybrid_hierarchy_is_told_what_to_hide(placed: Placed, tmp_path: Path) -> None:
    side = tmp_path / "sys/fs/cgroup/unified"
    side.mkdir(parents=True)
    (side / "cgroup.controllers").write_text("hugetlb\n")
    path = program(tmp_path / "crun", "echo crun version 1.8.1")
    found = one(runtimes.handlers, placed(oci(path)))
    assert found.level is Level.WARN
    hidden = f'hidden_mounts = ["{side}"]'
    assert hidden in found.remedy
    assert one(runtimes.handlers, placed(oci(path, hidden))).level is Level.OK
    (side / "cgroup.controllers").write_text("\n")
    assert one(runtimes.handlers, placed(oci(path))).level is Level.OK


def test_a_shim_is_asked_together_with_what_it_calls(placed: Placed, tmp_path: Path) -> None:
    shim = tmp_path / "containerd-shim-runc-v2"
    text = f'[runtime.handlers.x]\ntype = "shim"\npath = "{shim}"\n'
    missing = one(runtimes.handlers, placed(text))
    assert f"there is no program {shim}" in missing.text
    program(shim, "printf 'containerd-shim-runc-v2:\\n  Version: 1.6\\n'")
    place = placed(f'{text}options = {{BinaryName = "{tmp_path}/runc"}}')
    assert f"there is no program {tmp_path}/runc" in one(runtimes.handlers, place).text
    program(tmp_path / "runc", """echo '{"mountOptions": ["rro"]}'""")
    good = one(runtimes.handlers, place)
    assert good.level is Level.OK
    assert good.text.startswith("containerd-shim-runc-v2: Version: 1.6 ")
    assert "; can mount recursively read-only" in good.text


def test_a_shims_own_configuration_has_to_be_there(placed: Placed, tmp_path: Path) -> None:
    shim = program(tmp_path / "containerd-shim-kata-v2", "echo kata")
    text = f"""
[runtime.handlers.x]
type = "shim"
path = "{shim}"
options = {{ConfigPath = "{tmp_path}/kata.toml"}}
"""
    found = one(runtimes.handlers, placed(text))
    assert (found.level, f"{tmp_path}/kata.toml" in found.text) == (Level.WARN, True)
    (tmp_path / "kata.toml").write_text("")
    assert one(runtimes.handlers, placed(text)).level is Level.OK


def test_a_base_spec_that_keeps_the_daemon_from_starting_fails(
    placed: Placed, tmp_path: Path
) -> None:
    base = tmp_path / "base.json"
    base.write_text("[]")
    place = placed(f'[runtime.handlers.x]\nbase_runtime_spec = "{base}"\n')
    found = one(runtimes.handlers, place)
    assert (found.level, str(base) in found.text) == (Level.FAIL, True)


@pytest.mark.parametrize("table", ["[containers]", "[runtime.handlers.x]"])
def test_a_seccomp_profile_that_can_not_be_read_is_told(
    placed: Placed, tmp_path: Path, table: str
) -> None:
    place = placed(f'{table}\nseccomp_profile = "{tmp_path}/none.json"\n')
    found = [*runtimes.handlers(place), *runtimes.seccomp_profile(place)]
    (bad,) = (item for item in found if item.level is not Level.OK)
    assert (bad.level, "none.json" in bad.text) == (Level.WARN, True)


def test_a_criu_that_is_asked_for_is_judged_by_its_own_words(
    placed: Placed, tmp_path: Path
) -> None:
    place = placed(f'[runtime]\ncriu = "{tmp_path}/criu"\n')
    assert "no program" in one(runtimes.checkpoints, place).text
    script = '[ "$2" = check ] && { echo "Error (a.c:1): no vdso"; exit 1; }; echo Version: 3.17'
    program(tmp_path / "criu", script)
    bad = one(runtimes.checkpoints, place)
    assert (bad.level, "`criu check` says: no vdso" in bad.text) == (Level.WARN, True)
    program(tmp_path / "criu", "echo Version: 3.17")
    good, older = runtimes.checkpoints(place)
    assert (good.level, good.text[:9]) == (Level.OK, "CRIU 3.17")
    assert (older.level, "3.19" in older.remedy) == (Level.NOTE, True)


def test_classes_of_block_io_are_tried(placed: Placed, tmp_path: Path) -> None:
    file = tmp_path / "blockio.yaml"
    place = placed(f'[devices]\nblockio_config_file = "{file}"\n')
    assert [item.level for item in extensions.block_io(place)] == [Level.WARN]
    file.write_text("Classes: {slow: [{Weight: 50}], bad: [{Weight: 5}]}")
    bad, good = extensions.block_io(place)
    assert (bad.level, "Classes.bad[0].Weight: 5" in bad.text) == (Level.WARN, True)
    assert (good.level, good.text.startswith("classes slow (")) == (Level.OK, True)
    assert list(extensions.block_io(placed(""))) == []


@pytest.mark.root
def test_plugins_that_would_not_be_started_are_told(placed: Placed, tmp_path: Path) -> None:
    directory = tmp_path / "plugins"
    place = placed(f'[nri]\nplugin_path = "{directory}"\nsocket = "{tmp_path}/nri.sock"\n')
    assert list(extensions.installed_plugins(place)) == []
    directory.mkdir()
    program(directory / "50-good", "exit 0")
    program(directory / "60-open", "exit 0", 0o777)
    program(directory / "nameless", "exit 0")
    (directory / "README").write_text("no program")
    good, opened, nameless = extensions.installed_plugins(place)
    assert [good.level, opened.level, nameless.level] == [Level.OK, Level.WARN, Level.WARN]
    assert "nobody else write to it" in opened.text
    assert "NN-name" in nameless.text


def test_a_socket_of_another_runtime_is_told_without_a_daemon(
    placed: Placed, tmp_path: Path
) -> None:
    path = tmp_path / "nri/nri.sock"
    place = placed(f'[nri]\nsocket = "{path}"\n')
    assert one(extensions.plugins, place).level is Level.OK
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        found = one(extensions.plugins, place)
        assert (found.level, "another runtime" in found.text) == (Level.WARN, True)
    blocked = placed(f'[nri]\nsocket = "{tmp_path}/nri/nri.sock/beneath"\n')
    assert one(extensions.plugins, blocked).level is Level.NOTE
    assert "switched off" in one(extensions.plugins, placed("[nri]\nenabled = false")).text


def test_certificates_that_keep_the_daemon_from_starting_fail(
    placed: Placed, tmp_path: Path
) -> None:
    text = (
        f'[streaming]\ntls_cert_file = "{tmp_path}/cert.pem"\ntls_key_file = "{tmp_path}/key.pem"'
    )
    assert list(serving.certificate(placed(""))) == []
    assert one(serving.certificate, placed(text)).level is Level.FAIL
    subprocess.run(PEM.format(tmp_path).split(), check=True, capture_output=True)
    assert one(serving.certificate, placed(text)).level is Level.OK


def test_each_hosts_toml_is_read_with_what_it_names(placed: Placed, tmp_path: Path) -> None:
    place = placed(f'[images]\nhosts_dir = "{tmp_path}/certs.d"\n')
    assert one(serving.registries, place).text.startswith("hosts.toml of none")
    files = {
        "good.example": 'server = "https://good.example"',
        "quoted.example_5000_": 'server = "ftp://x"',
        "lost.example": 'ca = "none.pem"',
    }
    for host, text in files.items():
        (tmp_path / "certs.d" / host).mkdir(parents=True)
        (tmp_path / "certs.d" / host / "hosts.toml").write_text(text)
    lost, quoted, good = serving.registries(place)
    assert (good.level, "hosts.toml of good.example in" in good.text) == (Level.OK, True)
    assert (lost.level, "none.pem can't be read" in lost.text) == (Level.WARN, True)
    assert "ftp://x" in quoted.text
    assert quoted.remedy.endswith("from quoted.example:5000")


def test_every_such_finding_that_is_not_good_says_what_to_do(placed: Placed) -> None:
    place = dataclasses.replace(placed(oci("/no/such/program")))
    checks = (*runtimes.CHECKS, *extensions.CHECKS, *serving.CHECKS)
    found = [finding for check in checks for finding in check(place)]
    assert all(item.remedy for item in found if item.level is not Level.OK)
    assert any(item.level is Level.WARN for item in found)
