"""From fork to exec, stage by stage: `python -m runtime.tests.init_bench [rounds]`, as root.

A container as kubelet asks for it: an overlay, the usual mounts, /etc/hosts and its friends,
masks, capabilities, no_new_privs. Medians in µs of the rounds.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from runtime.spec import Spec, UserLookup
from runtime.tests.init_support import MOUNTS, Image, bind, spec


def kubelet_like(directory: Path) -> Spec:
    files = []
    for name in ("hosts", "hostname", "resolv.conf"):
        (directory / name).write_text("")
        files.append(bind(directory / name, f"/etc/{name}", "rw"))
    (directory / "token").mkdir()
    files.append(bind(directory / "token", "/var/run/secrets/kubernetes.io/serviceaccount", "ro"))
    process = {
        "no_new_privileges": True,
        "oom_score_adj": 1000,
        "user_lookup": UserLookup("root"),
        "env": ("PATH=/bin", *(f"KUBERNETES_{number}=tcp://10.0.0.1:443" for number in range(8))),
    }
    return replace(spec("true", process=process), mounts=(*MOUNTS, *files))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        image = Image(directory / "image")
        outcome = image.run(kubelet_like(directory), rounds=rounds)
    if outcome.failed:
        sys.exit(outcome.failure)
    for name, micros in outcome.stages:  # type: ignore[misc]  # pairs here
        print(f"{name:24} {micros:8.0f}")
    times = sorted(outcome.micros)
    print(f"{'all: median':24} {times[len(times) // 2]:8.0f}")
    print(f"{'     fastest':24} {times[0]:8.0f}")
    print(f"{'     CPU, with /bin/true':24} {outcome.cpu:8.0f}")
    print(f"{'     page faults':24} {outcome.faults:8.0f}")


if __name__ == "__main__":
    main()
