"""Layers of the node as a user namespace's own, on new kernels and on old ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.init import idmap

pytestmark = pytest.mark.root


SHARED = ("unshare", "--mount", "--propagation", "shared")
"""Where systemd is, mounts are: what is mounted on one is mounted on its peers."""


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_layers_are_the_namespaces_own_and_nothing_is_left_mounted(
    tmp_path: Path, kernel: str
) -> None:
    for name in ("layers/a", "skeleton", "containers/c/upper", "containers/c/work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "layers/a/roots").touch()
    (tmp_path / "skeleton/users").touch()
    (tmp_path / "skeleton/nobodys").touch()
    os.chown(tmp_path / "skeleton/users", 5, 6)
    os.chown(tmp_path / "skeleton/nobodys", 70000, 80000)
    done = subprocess.run(
        [*SHARED, sys.executable, "-I", "-m", "runtime.tests.idmap_driver", str(tmp_path), kernel],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["owners"] == {
        "made": [0, 0],
        "nobodys": [65534, 65534],
        "roots": [70000, 80000],
        "users": [70005, 80006],
    }
    assert (tmp_path / "containers/c/upper/made").is_dir()
    assert report["same mounts"]
    assert not report["same network"]
    assert report["children"] == 0


def test_what_can_not_be_mapped_is_named_with_its_place(tmp_path: Path) -> None:
    own = os.open("/proc/self/ns/user", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="proc, mounted at '/proc', can't map user ids"):
            idmap.clone("/proc/sys", own)
    finally:
        os.close(own)
