"""What an OCI binary is given, and what is made of what it says. Pure, but for its features."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.handlers import features, oci_cli
from runtime.init.values import Identity, RootPlan
from runtime.monitor.oci import plan
from runtime.monitor.oci.plan import OciPlan
from runtime.spec import Capabilities, Hook, Linux, Mount, Namespace, Process, Spec, UserLookup

PLACE = Path("/run/podwright/bundle")
PROCESS = Process(
    ("sh",),
    env=("PATH=/bin",),
    user_lookup=UserLookup("alice"),
    capabilities=Capabilities(bounding=("CAP_CHOWN", "CAP_SYS_RESOURCE")),
)
NAMESPACES = tuple(Namespace(kind) for kind in ("mount", "pid", "network", "uts"))


def config(*mounts: Mount, **linux: object) -> plan.Json:
    spec = Spec(PROCESS, mounts=mounts, linux=Linux(NAMESPACES, **linux))  # type: ignore[arg-type]
    return json.loads(json.dumps(oci_cli.config(spec, PLACE)))  # type: ignore[no-any-return]


def completed(made: plan.Json, home: str = "/home/alice") -> list[str]:
    paths = {"network": "/proc/1/ns/net", "uts": "/proc/1/ns/uts", "ipc": "/proc/1/ns/ipc"}
    who = Identity(1000, 1001, (1001, 7), home)
    return plan.complete(made, who, namespaces=paths, hostname="web", held=("CAP_CHOWN",))


def test_what_only_the_embedded_runtime_understands_is_said_so_that_all_do() -> None:
    made = config(Mount("/dev/shm", "tmpfs", "pod-shm", ("nosuid",)), cgroups_path="/a/b")
    assert made["mounts"] == [
        {
            "destination": "/dev/shm",
            "type": "bind",
            "source": "/run/podwright/bundle/shm",
            "options": ["rbind", "rprivate", "rw", "nosuid"],
        }
    ]
    assert made["root"] == {"path": "/run/podwright/bundle/rootfs", "readonly": False}
    assert "userLookup" not in str(made)
    assert made["linux"]["cgroupsPath"] == "/a/b"  # type: ignore[index]


def test_nothing_is_said_where_nothing_is_meant() -> None:
    made = config()
    assert '""' not in json.dumps(made)
    assert made["linux"]["namespaces"][0] == {"type": "mount"}  # type: ignore[index]


def test_empty_values_that_are_the_users_own_stay() -> None:
    spec = Spec(PROCESS, annotations={"key": ""})
    assert oci_cli.config(spec, PLACE)["annotations"] == {"key": ""}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "rprivate"),
        (("rbind", "rslave"), "rslave"),
        (("rbind", "rshared"), "rshared"),
    ],
)
def test_the_root_lets_through_what_its_mounts_ask_for(
    options: tuple[str, ...], expected: str
) -> None:
    made = config(
        Mount("/a", source="/a", options=("rslave",) * bool(options)),
        Mount("/b", source="/b", options=options),
    )
    assert made["linux"]["rootfsPropagation"] == expected  # type: ignore[index]


def test_hooks_go_to_the_binary_as_they_are() -> None:
    spec = Spec(PROCESS, hooks={"createRuntime": (Hook("/hook", timeout=3),)})
    hooks = {"createRuntime": [{"path": "/hook", "timeout": 3}]}
    assert oci_cli.config(spec, PLACE)["hooks"] == hooks
    assert "hooks" not in oci_cli.config(Spec(PROCESS), PLACE)


def test_the_config_is_completed_with_what_the_pod_and_the_image_tell() -> None:
    made = config()
    completed(made)
    process = made["process"]
    assert isinstance(process, dict)
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 7]}
    assert process["env"] == ["PATH=/bin", "HOME=/home/alice"]
    assert made["hostname"] == "web"
    assert made["linux"]["namespaces"] == [  # type: ignore[index]
        {"type": "mount"},
        {"type": "pid"},
        {"type": "network", "path": "/proc/1/ns/net"},
        {"type": "uts", "path": "/proc/1/ns/uts"},
    ]


def test_a_home_of_the_request_stays_and_an_unknown_one_is_the_root() -> None:
    made = config()
    process = made["process"]
    assert isinstance(process, dict)
    process["env"] = ["HOME=/mine"]
    completed(made)
    assert process["env"] == ["HOME=/mine"]
    process["env"] = ["HOME="]
    completed(made, home="")
    assert process["env"] == ["HOME=/"]


def test_capabilities_that_nobody_can_give_are_taken_out_and_said() -> None:
    made = config()
    assert completed(made) == ["podwright has no CAP_SYS_RESOURCE, so neither has the container"]
    capabilities = made["process"]["capabilities"]  # type: ignore[index]
    assert capabilities["bounding"] == ["CAP_CHOWN"]
    assert capabilities["ambient"] == []  # said, for a missing list may mean "as you have them"


def test_a_command_is_as_the_containers_process_but_for_what_it_runs() -> None:
    made = config()
    plain = plan.command_process(made, ("ls", "-l"), terminal=False)
    assert (plain["args"], plain["terminal"], plain["env"]) == (["ls", "-l"], False, ["PATH=/bin"])
    on_terminal = plan.command_process(made, ("sh",), terminal=True)
    assert on_terminal["env"] == ["PATH=/bin", "TERM=xterm"]
    assert made["process"]["env"] == ["PATH=/bin"]  # type: ignore[index]


def test_global_arguments_come_before_the_verb() -> None:
    made = OciPlan("/bin/r", "/root", "/b", RootPlan(), "{}", ("--x", "--y=1"))
    assert made.command("create.log", "create", "id") == [
        *("/bin/r", "--x", "--y=1", "--root", "/root", "--log", "/b/create.log"),
        *("--log-format", "json", "create", "id"),
    ]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"", ""),
        (b'{"level":"error","msg":"first"}\n{"level":"error","msg":"last"}\n', "last"),
        (b'{"level":"error","msg":"it"}\n{"level":"warning","msg":"but"}\n', "it"),
        (b'{"level":"error","msg":"whole"}\n{"level":"error","msg":"cut', "whole"),
        (b"\xff\n[1]\nnonsense\n", ""),
        (b'{"level":"fatal","msg":"' + b"x" * 9000 + b'"}', "x" * 4096),
    ],
)
def test_the_last_error_of_a_log_is_the_reason_whatever_else_is_in_it(
    log: bytes, said: str
) -> None:
    assert plan.last_error(log) == said


@pytest.mark.parametrize(
    ("text", "recursive"),
    [
        (b'{"mountOptions": ["ro", "rro"]}', True),
        (b'{"mountOptions": ["ro"]}', False),
        (b'{"mountOptions": "rro"}', False),
        (b"[]", False),
        (b"unknown command features", False),
    ],
)
def test_features_promise_only_what_is_said(text: bytes, recursive: bool) -> None:
    assert features.parse(text).recursive_read_only is recursive


def test_a_binary_that_is_missing_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    assert "install it" in features.ask(str(tmp_path / "none")).problem
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    assert features.ask(str(silent)) == features.Features()


def test_a_monitor_of_the_embedded_runtime_loads_nothing_for_the_others() -> None:
    script = "import sys, runtime.spawner.server; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    loaded = ran.stdout.split()
    assert "runtime.monitor.pod" in loaded
    rare = (
        *("runtime.monitor.oci", "runtime.monitor.shim", "runtime.monitor.hooks"),
        *("runtime.monitor.program", "runtime.ttrpc", "google"),
    )
    assert [name for name in loaded if name.startswith(rare)] == []
