"""What runs containers besides the embedded runtime: the programs of handlers, and CRIU.

Programs are run with the configured arguments, as they would be for a pod, but only to say what
they are, and to list the containers of an empty directory.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cri.cli.checks.finding import Finding, Place, fail, note, ok, warn
from cri.config import RuntimeConfig
from cri.handlers import OCI, HandlerConfig
from cri.specgen.handler import BaseRefused, load_base
from runtime.checkpoint import criu
from runtime.errors import InvalidSpec
from runtime.handlers import features
from runtime.monitor.program import PATH
from runtime.seccomp import profile

PATIENCE = 10.0
"""Seconds for each answer of a program."""
UNIFIED = "fs/cgroup/unified"
"""Below /sys: where a hybrid hierarchy has its cgroup2 side."""

Problem = tuple[str, str]
"""What is wrong with a program, and the remedy."""


def handlers(place: Place) -> Iterator[Finding]:
    """Each runtime that a RuntimeClass can name could run a pod."""
    for name, config in place.config.runtime.handlers.items():
        about = f"handler {name}"
        found = [*_files(about, config), *_program(place, about, config)]
        yield from found or [ok(about, "the embedded runtime")]


def _files(about: str, config: HandlerConfig) -> Iterator[Finding]:
    try:
        if config.base_runtime_spec:
            load_base(Path(config.base_runtime_spec))
    except BaseRefused as error:
        yield fail(about, str(error), "mend the file or take the key out: no daemon starts with it")
    yield from _profile(about, config.seccomp_profile)


def _profile(about: str, path: str) -> Iterator[Finding]:
    """The seccomp profile that stands for RuntimeDefault, where one is configured."""
    try:
        if path:
            profile.load(path)
    except InvalidSpec as error:
        remedy = "mend the file or take the key out: no container with RuntimeDefault can be made"
        yield warn(about, f"seccomp_profile: {error}", remedy)


def seccomp_profile(place: Place) -> Iterator[Finding]:
    """The one of [containers]."""
    yield from _profile("seccomp", place.config.containers.seccomp_profile)


def _program(place: Place, about: str, config: HandlerConfig) -> Iterator[Finding]:
    """What is wrong with it, or that it is good; nothing of the embedded runtime."""
    if not config.program:
        return
    oci = config.type == OCI
    told = features.ask(config.path) if oci else features.of_shim(config.path, config.options)
    problems: list[Problem] = []
    if told.problem:
        remedy = "or mend path (of a shim, options) of this handler"
        problems.append((told.problem, remedy))
    else:
        problems += _oci(place, config) if oci else _shim(config)
    for text, remedy in problems:
        yield warn(about, text, f"{remedy}; pods of this handler fail until then")
    if not problems:
        _, said = _run([config.path, "--version" if oci else "-v"])
        able = "can" if told.recursive_read_only else "does not say that it can"
        yield ok(about, f"{_version(said)} ({config.path}); {able} mount recursively read-only")


def _oci(place: Place, config: HandlerConfig) -> Iterator[Problem]:
    """Its arguments are understood, its platform is there, and cgroups will be as it wants them."""
    with tempfile.TemporaryDirectory(prefix="podwright-doctor-") as empty:
        code, said = _run([config.path, *config.arguments, "--root", empty, "list"])
    if code:
        line = said.strip().splitlines()[-1] if said.strip() else "nothing"
        words = " ".join((config.path, *config.arguments))
        yield f"`{words} list` ends with {code} and says: {line}", "mend arguments of this handler"
    if "--systemd-cgroup" in config.arguments:
        text = "--systemd-cgroup has it ask for a scope of its own, beside podwright's"
        yield text, "take it out of arguments: with systemd, podwright makes the scope"
    if "--platform=kvm" in config.arguments and (why := _without_kvm()):
        text = f"--platform=kvm wants /dev/kvm: {why}"
        yield text, "use --platform=systrap (ptrace with old versions), or a machine with KVM"
    yield from _hybrid(place, config)


def _without_kvm() -> str:
    """Why there is none; "": there is. Being allowed to by its mode is not enough: see cgroups."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _hybrid(place: Place, config: HandlerConfig) -> Iterator[Problem]:
    """crun takes a cgroup2 side that has a controller for the whole hierarchy, and gives up."""
    side = place.sys / UNIFIED
    try:
        controllers = (side / "cgroup.controllers").read_text().split()
    except OSError:
        return
    if controllers and os.fspath(side) not in config.hidden_mounts:
        _, said = _run([config.path, "--version"])
        if said.startswith("crun "):
            text = f"crun refuses a hybrid cgroup hierarchy whose {side} has {controllers[0]}"
            yield text, f'hidden_mounts = ["{side}"]'


def _shim(config: HandlerConfig) -> Iterator[Problem]:
    """It says what it is, and its own configuration is there."""
    code, said = _run([config.path, "-v"])
    if code:
        yield f"{config.path} -v ends with {code}: {said.strip()[:200]}", "install a shim in path"
    file = str(config.options.get("ConfigPath", ""))
    if file and not os.access(file, os.R_OK):
        yield f"options.ConfigPath names {file}, which can't be read", "put it there"


def _run(words: Sequence[str]) -> tuple[int, str]:
    """A program's exit code, and all that it said; what kept it from being run, with code 127."""
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
            cwd="/",
            env={"PATH": PATH},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def _version(said: str) -> str:
    """In one line: runc says it in its first, containerd's shims in two."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    if lines and lines[0].endswith(":"):
        lines[:2] = [" ".join((os.path.basename(lines[0]), *lines[1:2]))]
    return lines[0] if lines else "does not say which version it is"


def checkpoints(place: Place) -> Iterator[Finding]:
    """CRIU is there, and works with this kernel. Most nodes do without."""
    name = place.config.runtime.criu
    wanted = name != RuntimeConfig().criu
    tell = warn if wanted else note
    path = criu.find(name)
    if not path:
        remedy = (
            "install CRIU 3.17 or newer, or name it in [runtime] criu, if checkpoints are wanted"
        )
        yield tell("checkpoints", f"no program {name!r}: containers can't be written down", remedy)
    elif problem := criu.problem(path):
        remedy = "install a newer CRIU and name it in [runtime] criu, if checkpoints are wanted"
        yield tell("checkpoints", f"{path} does not work here: {problem}", remedy)
    else:
        version = criu.version(path)
        name = f"CRIU {'.'.join(map(str, version))}"
        yield ok("checkpoints", f"{name} ({path}) works with this kernel")
        if version < criu.KNOWS_NO_NEW_PRIVILEGES:
            text = f"{name} restores no container with allowPrivilegeEscalation: false"
            yield note("checkpoints", text, "install CRIU 3.19 or newer")


CHECKS = (handlers, seccomp_profile, checkpoints)
