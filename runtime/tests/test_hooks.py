"""Hooks of the OCI specification under a real monitor: when, where, with what; how they fail."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.errors import InitFailed, InvalidSpec, RuntimeFault
from runtime.lifecycle import ContainerRequest, Started
from runtime.monitor.hooks.plan import STAGES, checked
from runtime.spec import Capabilities, Hook, Namespace
from runtime.tests.node import Node, lifetime, until

pytestmark = pytest.mark.root
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
BEFORE = STAGES[:4]
LONG = 100_000 + os.getpid()  # seconds that no other test sleeps
LOOK = "cat; echo; for k in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$k; done"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A runtime with a pod; afterwards nothing of it may be left."""
    async with lifetime(Node(tmp_path), "s1") as node:
        yield node


def sh(script: str, *, timeout: int | None = None, env: tuple[str, ...] = ()) -> Hook:
    return Hook("/bin/sh", ("sh", "-c", script), env, timeout)


def request(node: Node, name: str, *args: str, **hooks: Hook) -> ContainerRequest:
    made = node.request("s1", name, *args)
    listed = {stage: (hook,) for stage, hook in hooks.items()}
    spec = dataclasses.replace(made.spec, hooks=listed, annotations={"who": name})
    return dataclasses.replace(made, spec=spec)


async def start(node: Node, name: str, *args: str, **hooks: Hook) -> Started:
    return await node.runtime.start_container(request(node, name, *args, **hooks))


def looking(node: Node) -> dict[str, Hook]:
    """A hook of each kind that writes down what it is told and where it is."""
    hooks = {stage: sh(f"({LOOK}) > {node.path}/{stage}") for stage in STAGES}
    hooks["startContainer"] = sh(f"({LOOK}) > /{BEFORE[3]}")
    return hooks


def seen(node: Node, name: str, stage: str) -> tuple[dict[str, object], dict[str, str]]:
    where = node.path / name / "upper" if stage == "startContainer" else node.path
    state, *links = (where / stage).read_text().splitlines()
    return json.loads(state), dict(zip(KINDS, links, strict=True))


async def test_each_hook_runs_at_its_time_in_its_namespaces_with_the_state(node: Node) -> None:
    started = await start(node, "c1", "sleep", "1000", **looking(node))
    ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
    theirs = {kind: os.readlink(f"/proc/{started.pid}/ns/{kind}") for kind in KINDS}
    place = str(node.state / "bundle")
    expected = {
        "prestart": ("creating", started.pid, ours),
        "createRuntime": ("creating", started.pid, ours),
        "createContainer": ("creating", 1, theirs),
        "startContainer": ("created", 1, theirs),
        "poststart": ("running", started.pid, ours),
    }
    for stage, (status, pid, namespaces) in expected.items():
        state, found = seen(node, "c1", stage)
        assert state == {
            "ociVersion": "1.3.0",
            "id": "c1",
            "status": status,
            "pid": pid,
            "bundle": place,
            "annotations": {"who": "c1"},
        }
        for kind in set(KINDS) - {"mnt"}:
            assert found[kind] == namespaces[kind], (stage, kind)
    mounts = {stage: seen(node, "c1", stage)[1]["mnt"] for stage in expected}
    assert mounts["createContainer"] == mounts["startContainer"] == theirs["mnt"]
    outside = {mounts[stage] for stage in ("prestart", "createRuntime", "poststart")}
    assert len(outside) == 1
    assert outside.isdisjoint((ours["mnt"], theirs["mnt"]))
    assert not (node.path / "poststop").exists()
    await node.runtime.signal("s1", "c1", 9)
    await node.ended("c1")
    state, found = seen(node, "c1", "poststop")
    assert (state["status"], "pid" in state) == ("stopped", False)
    assert found["net"] == ours["net"]


async def test_hooks_of_one_kind_run_as_listed_and_their_time_is_told(node: Node) -> None:
    log = node.path / "order"
    made = request(node, "c1", "true")
    hooks = {stage: (sh(f"echo {stage} 1 >> {log}"), sh(f"echo {stage} 2 >> {log}"))
             for stage in STAGES if stage != "startContainer"}  # fmt: skip
    spec = dataclasses.replace(made.spec, hooks=hooks)
    started = await node.runtime.start_container(dataclasses.replace(made, spec=spec))
    await node.ended("c1")
    assert log.read_text().splitlines() == [
        f"{stage} {number}" for stage in STAGES if stage != "startContainer" for number in (1, 2)
    ]
    names = [stage.name for stage in started.stages]
    assert names.count("createContainer hook /bin/sh") == 2
    assert names.count("poststart hook /bin/sh") == 2


async def test_a_hook_before_the_pivot_sees_the_bundle_and_changes_the_root(node: Node) -> None:
    in_root = 'root=$(sed \'s/.*"root": {"path": "\\([^"]*\\).*/\\1/\' config.json)'
    outside = (
        f"{in_root}; test -e $root/bin/busybox; test ! -e $root/proc/self; pwd > {node.path}/cwd"
    )
    inside = (
        f"cd {node.state}/bundle; {in_root}; cd $root; test -e proc/self; test -c dev/null;"
        f" echo made > made; cat /proc/self/mountinfo > {node.path}/mounts"
    )
    await start(
        node, "c1", "cat", "/made",
        createRuntime=sh("set -e; " + outside), createContainer=sh("set -e; " + inside),
    )  # fmt: skip
    assert (await node.ended("c1")).exit_code == 0
    assert node.lines("c1") == ["made"]
    assert (node.path / "cwd").read_text() == f"{node.state}/bundle\n"
    assert f" {node.state}/bundle/rootfs/proc " in (node.path / "mounts").read_text()


async def test_a_mount_that_a_hook_makes_in_the_root_is_there_and_goes(node: Node) -> None:
    (node.path / "library").write_text("of the node\n")
    script = f": > library; mount --bind {node.path}/library library"
    await start(node, "c1", "cat", "/library", createContainer=sh("set -e; " + script))
    assert (await node.ended("c1")).exit_code == 0
    assert node.lines("c1") == ["of the node"]


async def test_a_container_with_hooks_sees_what_one_without_sees(node: Node) -> None:
    script = (
        "busybox sed 's/^[0-9]* [0-9]* [0-9:]* //;s/[a-z]*=[^ ]*//g' /proc/self/mountinfo;"
        "busybox ls -l /dev /etc 2>&1 | busybox sed 's/[0-9][0-9]:[0-9][0-9]//'; id"
    )
    for name, hooks in (("c1", {}), ("c2", {"createContainer": sh("true")})):
        await start(node, name, "sh", "-c", script, **hooks)
        assert (await node.ended(name)).exit_code == 0
    assert node.lines("c1") == node.lines("c2")
    assert len(node.lines("c1")) > 10


async def test_a_hook_of_the_node_has_no_environment_but_its_own(node: Node) -> None:
    script = f"tr '\\0' '\\n' < /proc/self/environ >> {node.path}/env; echo >> {node.path}/env"
    bare, own = (Hook("/bin/busybox", ("sh", "-c", script), env) for env in ((), ("A=b=c",)))
    await start(node, "c1", "true", createRuntime=bare, createContainer=own)
    first, second, _ = (node.path / "env").read_text().split("\n\n")
    assert [line.partition("=")[0] for line in first.splitlines()] == ["PATH"]
    assert sorted(line.partition("=")[0] for line in second.split()) == ["A", "PATH"]
    assert "A=b=c" in second.split()


@pytest.mark.parametrize("stage", [*BEFORE, "poststart"])
async def test_a_hook_that_fails_undoes_the_start_and_says_why(node: Node, stage: str) -> None:
    hooks = {"poststop": sh(f": > {node.path}/stopped"), stage: sh("echo no driver >&2; exit 3")}
    with pytest.raises(InitFailed, match=f"{stage} hook /bin/sh: exit code 3: no driver"):
        await start(node, "c1", "sleep", "1000", **hooks)
    assert (node.path / "stopped").exists()
    assert not any(name == "c1" for name in node.exits)
    assert node._cgroups() in ([], ["s1"])
    await start(node, "c2", "true")
    assert (await node.ended("c2")).exit_code == 0


@pytest.mark.parametrize("stage", [*BEFORE, "poststart"])
async def test_a_hook_that_takes_too_long_is_killed_with_what_it_started(
    node: Node, stage: str
) -> None:
    hook = sh(f"sleep {LONG} & sleep {LONG}", timeout=1)
    with pytest.raises(InitFailed, match=f"{stage} hook.*killed: it had not ended after 1 s"):
        await start(node, "c1", "sleep", "1000", **{stage: hook})
    await until(lambda: not running())


def running() -> bool:
    """Whether a hook that sleeps so long does."""
    word = str(LONG).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize("stage", [*BEFORE, "poststart"])
async def test_a_container_that_is_removed_while_a_hook_runs_is_gone(
    node: Node, stage: str
) -> None:
    where = "" if stage == "startContainer" else str(node.path)
    begun = (node.path / "c1" / "upper" if not where else node.path) / "begun"
    starting = asyncio.create_task(
        start(node, "c1", "sleep", "1000", **{stage: sh(f": > {where}/begun; exec sleep {LONG}")})
    )
    await until(begun.exists)
    await node.runtime.remove_container("s1", "c1")
    with pytest.raises(InitFailed, match="hooks: the container was killed while they ran"):
        await starting
    await until(lambda: not running())


async def test_a_short_program_is_told_to_have_run_after_its_poststart_hook(node: Node) -> None:
    started = await start(
        node, "c1", "true", poststart=sh(f"sleep 0.3; : > {node.path}/told; exit 0")
    )
    assert (node.path / "told").exists()
    ended = await node.ended("c1")
    assert started.started_at > 0
    assert ended.exit_code == 0


async def test_a_poststop_hook_that_fails_is_a_remark_and_the_others_run(node: Node) -> None:
    made = request(node, "c1", "sh", "-c", "exit 7")
    hooks = {"poststop": (sh("echo stuck; exit 1"), sh(f": > {node.path}/second"))}
    spec = dataclasses.replace(made.spec, hooks=hooks)
    await node.runtime.start_container(dataclasses.replace(made, spec=spec))
    ended = await node.ended("c1")
    assert ended.exit_code == 7
    assert ended.message == "poststop hook /bin/sh: exit code 1: stuck"
    assert (node.path / "second").exists()


async def test_a_container_runs_until_its_last_hook_has_and_its_end_is_told(node: Node) -> None:
    script = f": > {node.path}/begun; while ! test -e {node.path}/go; do sleep 0.05; done"
    await start(node, "c1", "sh", "-c", "exit 9", poststop=sh(script))
    await until((node.path / "begun").exists)
    next_one = node.new_runtime()
    await next_one.start()
    report = await next_one.reconnect("s1")
    assert report is not None
    assert [one.container_id for one in report.running] == ["c1"]
    assert report.exited == ()
    await next_one.close()
    (node.path / "go").touch()
    assert (await node.ended("c1")).exit_code == 9


async def test_an_exit_is_on_disk_while_its_poststop_hook_runs(node: Node) -> None:
    script = f"cp {node.state}/monitors/s1/exits/c1.json {node.path}/exit"
    await start(node, "c1", "sh", "-c", "exit 9", poststop=sh(script))
    await node.ended("c1")
    assert json.loads((node.path / "exit").read_text())["exit_code"] == 9


async def test_hooks_that_print_without_an_end_are_quoted_at_the_end(node: Node) -> None:
    flood = sh("head -c 3000000 /dev/zero | tr '\\0' x; echo last words; exit 1")
    with pytest.raises(InitFailed) as raised:
        await start(node, "c1", "true", createRuntime=flood)
    assert str(raised.value).endswith("xx last words".replace(" ", "", 1))
    assert len(str(raised.value)) < 2200


async def test_a_hook_that_is_not_there_is_named(node: Node) -> None:
    with pytest.raises(InitFailed, match=r"prestart hook /no/such: .*'/no/such' can't be run"):
        await start(node, "c1", "true", prestart=Hook("/no/such"))
    with pytest.raises(
        InitFailed, match='startContainer hook /no: exec: "/no" is not in the image'
    ):
        await start(node, "c2", "true", startContainer=Hook("/no"))


async def test_what_a_hook_of_the_container_is_called_is_its_first_argument(node: Node) -> None:
    hook = Hook("/bin/busybox", ("sh", "-c", "echo $0 $WHO > /said", "called"), ("WHO=it",))
    await start(node, "c1", "cat", "/said", startContainer=hook)
    await node.ended("c1")
    assert node.lines("c1") == ["called it"]


async def test_hooks_work_in_a_shared_pid_namespace(node: Node) -> None:
    await node.create("s2", pid="pod")
    try:
        hook = sh(f"cat > {node.path}/told")
        made = sharing(request(node, "c1", "sleep", "1000", createContainer=hook))
        started = await node.runtime.start_container(made)
        state = json.loads((node.path / "told").read_text())
        assert state["pid"] == pid_inside(started.pid) > 1
    finally:
        await node.remove("s2")


def sharing(made: ContainerRequest, *capabilities: str) -> ContainerRequest:
    """The same in the pod s2, whose containers see each other."""
    spaces = tuple(
        Namespace("pid", "pod") if one.type == "pid" else one for one in made.spec.linux.namespaces
    )
    spec = dataclasses.replace(
        made.spec,
        process=dataclasses.replace(
            made.spec.process, capabilities=Capabilities(*([tuple(capabilities)] * 3))
        ),
        linux=dataclasses.replace(made.spec.linux, namespaces=spaces),
    )
    return dataclasses.replace(made, sandbox_id="s2", spec=spec)


async def test_who_may_trace_the_pod_finds_nothing_of_the_node_while_hooks_run(node: Node) -> None:
    look = f"for p in /proc/[0-9]*; do [ ! -e $p/root{__file__} ] || echo $p; done"
    await node.create("s2", pid="pod")
    try:
        watching = request(node, "watcher", "sh", "-c", f"while :; do {look}; done")
        await node.runtime.start_container(sharing(watching, "CAP_SYS_PTRACE"))
        for number in range(5):
            hooks = {stage: sh("sleep 0.1; cat > /dev/null") for stage in STAGES}
            hooks["startContainer"] = sh("sleep 0.1")
            made = sharing(request(node, f"c{number}", "true", **hooks))
            await node.runtime.start_container(made)
            await node.ended(f"c{number}")
        assert node.log("watcher").read_text() == ""
        result = await node.exec("s2", "watcher", "sh", "-c", "echo /proc/[0-9]*")
        assert len(result.split()) > 1  # it does see others
    finally:
        await node.remove("s2")


async def test_who_may_trace_the_pod_starts_after_those_who_are_being_prepared(node: Node) -> None:
    """They came into its sight before anybody knew of it: nothing shelters them."""
    look = f"for p in /proc/[0-9]*; do [ ! -e $p/root{__file__} ] || echo $p; done"
    go = node.path / "go"
    await node.create("s2", pid="pod")
    try:
        held = request(node, "held", "true", createRuntime=sh(f"until [ -e {go} ]; do :; done"))
        starting = asyncio.create_task(node.runtime.start_container(sharing(held)))
        await until(lambda: (node.path / "held.log").exists())
        watching = sharing(request(node, "watcher", "sh", "-c", look), "CAP_SYS_PTRACE")
        watcher = asyncio.create_task(node.runtime.start_container(watching))
        done, _ = await asyncio.wait([watcher, starting], timeout=0.5)
        assert not done
        go.touch()
        await starting
        await watcher
        await node.ended("watcher")
        assert node.log("watcher").read_text() == ""
    finally:
        await node.remove("s2")


async def test_who_waits_to_start_is_no_hindrance_to_the_pods_end(node: Node) -> None:
    await node.create("s2", pid="pod")
    held = request(node, "held", "true", createRuntime=sh(f"sleep {LONG}"))
    starting = asyncio.create_task(node.runtime.start_container(sharing(held)))
    await until(lambda: (node.path / "held.log").exists())
    waiting = sharing(request(node, "waiting", "true"), "CAP_SYS_PTRACE")
    watcher = asyncio.create_task(node.runtime.start_container(waiting))
    await asyncio.wait([watcher, starting], timeout=0.2)
    async with asyncio.timeout(5):
        await node.remove("s2")
        with pytest.raises(RuntimeFault):
            await watcher
        with pytest.raises(RuntimeFault):
            await starting


def pid_inside(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


@pytest.mark.parametrize(
    ("hooks", "says"),
    [
        ({"later": (Hook("/x"),)}, "hooks.later: no such hook: there are prestart"),
        ({"prestart": (Hook("x"),)}, 'hooks.prestart[0].path: "x" is not absolute'),
        ({"poststop": (Hook("/x", timeout=0),)}, "hooks.poststop[0].timeout: 0 is not above 0"),
        ({"poststop": (Hook("/x", env=("=1",)),)}, "hooks.poststop[0].env: "),
        ({"poststop": (Hook("/x", ("a\0",)),)}, "hooks.poststop[0].args: contains a NUL"),
    ],
)
def test_a_hook_that_can_not_be_is_refused_by_its_place(
    hooks: dict[str, tuple[Hook, ...]], says: str
) -> None:
    with pytest.raises(InvalidSpec) as raised:
        checked(hooks)
    assert str(raised.value).startswith(says)
