"""A rehearsal runs all its steps and leaves the process as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

DRIVER = """
import json, os
from runtime.init import launch, rehearsal, sandbox
from runtime.linux.namespace import Clone, unshare

unshare(Clone.NEWNS)
holder = sandbox.make_holder()

def state():
    mask = os.umask(0)
    os.umask(mask)
    with open("/proc/self/mountinfo") as mountinfo:
        mounts = mountinfo.read()
    caps = [line for line in open("/proc/self/status") if line.startswith("Cap")]
    names = sorted(os.listdir("/proc/self/ns"))
    namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    return [os.getcwd(), mask, mounts, caps, namespaces, len(os.listdir("/proc/self/fd"))]

os.chdir("/")
ourselves = launch.warm_up()
before = state()
failure = rehearsal.rehearse(holder, ourselves)
print(json.dumps([failure, before, state()]))
"""


def test_a_rehearsal_succeeds_and_leaves_no_trace() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore::ResourceWarning", "-c", DRIVER],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    failure, before, after = json.loads(done.stdout)
    assert failure == ""
    assert after == before
