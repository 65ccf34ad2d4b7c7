"""The runtimes side by side: podwright, and one containerd that runs pods by runc or by crun."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.bench import images
from e2e.bench.accounting import Group
from e2e.bench.daemon import Daemon

PODWRIGHT, RUNC, CRUN = "podwright", "containerd+runc", "containerd+crun"
NAMES = (PODWRIGHT, RUNC, CRUN)
BASELINE = RUNC

_CNI_BIN = "/usr/lib/cni"
_PODWRIGHT_SUBNET, _CONTAINERD_SUBNET = "10.97.0.0/16", "10.98.0.0/16"

_PODWRIGHT_CONFIG = """\
root = "{root}/root"
state = "/run/podwright"
address = "unix://{address}"
[network]
enabled = true
bridge = "podwright0"
subnets = ["{subnet}"]
[images]
hosts_dir = "{root}/hosts"
[nri]
socket = "{root}/nri.sock"
"""

_PACKAGES = {"containerd": "containerd", "runc": "runc", "crun": "crun", "iptables": "iptables"}

_CONTAINERD_CONFIG = """\
version = 2
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni_bin}"
  conf_dir = "{root}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{root}/hosts"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
    BinaryName = "crun"
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A column of the table: where to call it, and which cgroup says what it costs."""

    name: str
    address: str
    handler: str
    group: Group
    directory: Path


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that runs, and the columns that it serves."""

    daemon: Daemon
    runtimes: tuple[Runtime, ...]


def start_containerd(directory: Path, prefix: str, names: set[str]) -> Started:
    """Debian's containerd with CNI's bridge, host-local and portmap, and masquerading."""
    for program in ("containerd", "iptables", "runc", *(["crun"] if CRUN in names else [])):
        _need(program)
    for folder in ("cni", "opt"):
        (directory / folder).mkdir(parents=True)
    address = str(directory / "containerd.sock")
    config = directory / "config.toml"
    config.write_text(
        _CONTAINERD_CONFIG.format(
            root=directory, address=address, pause=images.PAUSE, cni_bin=_CNI_BIN
        )
    )
    _write_hosts(directory / "hosts")
    (directory / "cni/10-bench.conflist").write_text(json.dumps(_conflist(directory)))
    group = Group(f"{prefix}/containerd")
    # crun refuses a version 1 machine whose unified hierarchy still has a controller
    script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec containerd --config "$0"'
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "/bin/sh",
        "-c",
        script,
        str(config),
    ]
    daemon = Daemon("containerd", command, directory / "log", group)
    daemon.start()
    daemon.wait_for(address)
    handlers = {RUNC: "runc", CRUN: "crun"}
    found = [
        Runtime(name, address, handlers[name], group, directory)
        for name in handlers
        if name in names
    ]
    return Started(daemon, tuple(found))


def start_podwright(directory: Path, prefix: str) -> Started:
    """This work tree's podwright with its built-in network."""
    directory.mkdir()
    _write_hosts(directory / "hosts")
    address = str(directory / "podwright.sock")
    config = directory / "podwright.toml"
    config.write_text(
        _PODWRIGHT_CONFIG.format(root=directory, address=address, subnet=_PODWRIGHT_SUBNET)
    )
    command = [str(Path(sys.prefix, "bin/podwright")), "serve", "--config", str(config)]
    group = Group(f"{prefix}/podwright")
    daemon = Daemon("podwright", command, directory / "log", group)
    daemon.start()
    daemon.wait_for(address)
    return Started(daemon, (Runtime(PODWRIGHT, address, "", group, directory),))


def _conflist(directory: Path) -> dict[str, object]:
    ipam = {
        "type": "host-local", "dataDir": str(directory / "ipam"), "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": _CONTAINERD_SUBNET}]],
    }  # fmt: skip
    bridge = {
        "type": "bridge",
        "bridge": "peer0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": ipam,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "bench", "plugins": [bridge, portmap]}


def _write_hosts(hosts: Path) -> None:
    """Say to a runtime (hosts.toml of containerd's form) that the registry speaks plain HTTP."""
    name = f"{images.HOST}:{images.PORT}"
    (hosts / name).mkdir(parents=True)
    (hosts / name / "hosts.toml").write_text(
        f'server = "http://{name}"\n[host."http://{name}"]\n  capabilities = ["pull", "resolve"]\n'
    )


def _need(program: str) -> None:
    if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
        raise RuntimeError(
            f"{program} is not installed, the peers need it: apt-get install {_PACKAGES[program]}"
        )
