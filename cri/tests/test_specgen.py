"""What CRI asks becomes the right spec; what can't be is refused, with the field's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from cri.api import api_pb2 as api
from cri.errors import CriFault, InvalidRequest, NotImplementedYet
from cri.specgen import container, mounts, namespaces, process, resources
from cri.specgen.subject import Facts
from cri.tests.subjects import Context, Options, image, pod_with, secured, subject
from runtime import codec
from runtime.init import plan
from runtime.seccomp.profile import default_profile
from runtime.spec import Memory, Rootfs, Spec

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".cri.json") for path in GOLDEN.glob("*.cri.json"))


def shape(spec: Spec) -> dict[str, object]:
    """A spec's JSON, with the default seccomp profile by its name."""
    made = codec.encode(spec, camel=True)
    assert isinstance(made, dict)
    linux = made["linux"]
    assert isinstance(linux, dict)
    if spec.linux.seccomp is default_profile(spec.process.capabilities.bounding):
        linux["seccomp"] = "RuntimeDefault"
    return made


@pytest.mark.parametrize("case", CASES)
def test_a_request_becomes_the_spec_that_was_looked_at(
    case: str, pytestconfig: pytest.Config
) -> None:
    given = json.loads((GOLDEN / f"{case}.cri.json").read_text())
    spec = container.spec(
        subject(
            ParseDict(given["container"], api.ContainerConfig()),
            ParseDict(given["sandbox"], api.PodSandboxConfig()),
            codec.decode(Facts, given["facts"], camel=True),
            image(**given["image"]),
        )
    )
    path = GOLDEN / f"{case}.spec.json"
    if pytestconfig.getoption("--update-golden"):
        path.write_text(json.dumps(shape(spec), indent=2) + "\n")
    assert json.loads(path.read_text()) == json.loads(json.dumps(shape(spec)))
    plan.container(spec, Rootfs(("/lower",), "/upper", "/work"))  # the runtime can take it


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], ("/entry", "cmd")),
        ([], ["a"], ("/entry", "a")),
        (["/c"], [], ("/c",)),
        (["/c"], ["a"], ("/c", "a")),
    ],
)
def test_command_replaces_the_entrypoint_and_drops_the_images_arguments(
    command: list[str], args: list[str], expected: tuple[str, ...]
) -> None:
    config = api.ContainerConfig(command=command, args=args)
    assert process.args(config, image(entrypoint=["/entry"], cmd=["cmd"])) == expected


def test_without_any_command_there_is_no_container() -> None:
    with pytest.raises(InvalidRequest, match=r"config\.command: empty"):
        process.args(api.ContainerConfig(), image())


def test_an_image_s_working_directory_counts_from_the_root() -> None:
    assert process.cwd(api.ContainerConfig(), image(working_dir="app/")) == "/app"
    assert process.cwd(api.ContainerConfig(), image()) == "/"
    assert process.cwd(api.ContainerConfig(working_dir="/x"), image(working_dir="/y")) == "/x"


def test_who_runs_it_is_the_request_s_then_the_image_s_then_root() -> None:
    named = image(user="www:web")
    assert process.user(Context(), image()).user == "0"
    assert process.user(Context(), named).user == "www:web"
    asked = Context(run_as_user=api.Int64Value(value=7))
    assert process.user(asked, named).user == "7"
    asked.run_as_username = "joe"
    asked.run_as_group.value = 0
    lookup = process.user(asked, named)
    assert (lookup.user, lookup.group, lookup.merge) == ("joe", 0, True)


def test_a_group_without_a_user_is_an_error_even_if_the_image_has_one() -> None:
    asked = Context(run_as_group=api.Int64Value(value=7))
    with pytest.raises(InvalidRequest, match="user group 7 is specified without user"):
        process.user(asked, image(user="joe"))


def test_a_groups_policy_that_nobody_knows_is_refused() -> None:
    asked = Context(supplemental_groups_policy=7)  # type: ignore[arg-type]  # open in proto3
    with pytest.raises(InvalidRequest, match="supplemental_groups_policy: 7 is neither"):
        process.user(asked, image())


def test_a_terminal_gets_a_type_that_the_image_may_know_better() -> None:
    plain = api.ContainerConfig(tty=True)
    assert "TERM=xterm" in process.env(subject(plain))
    assert "TERM=vt100" in process.env(subject(plain, of_image=image(env=["TERM=vt100"])))


def test_mounts_come_in_the_order_of_their_depth_and_hide_the_usual_ones() -> None:
    wanted = [("/a/b/c", "/1"), ("/proc", "/2"), ("/a", "/3"), ("etc/hosts", "/4"), ("/a/b", "/5")]
    config = api.ContainerConfig(
        mounts=[api.Mount(container_path=there, host_path=here) for there, here in wanted]
    )
    made = mounts.mounts(subject(config))
    ours = [mount.destination for mount in made if mount.source[1:].isdigit()]
    assert ours == ["/proc", "/a", "/etc/hosts", "/a/b", "/a/b/c"]
    everything = [mount.destination for mount in made]
    assert len(everything) == len(set(everything))
    assert {"/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/sys/fs/cgroup"} <= set(everything)


@pytest.mark.parametrize(
    ("mount", "problem"),
    [
        (api.Mount(host_path="/x"), r"mounts\[0\]\.container_path"),
        (
            api.Mount(container_path="/x", host_path="y"),
            r"mounts\[0\]\.host_path: 'y' is not absolute",
        ),
        (
            api.Mount(container_path="/x", host_path="/y", recursive_read_only=True),
            "set readonly as well",
        ),
        (
            api.Mount(
                container_path="/x",
                host_path="/y",
                readonly=True,
                recursive_read_only=True,
                propagation=api.PROPAGATION_BIDIRECTIONAL,
            ),
            "needs PROPAGATION_PRIVATE, not PROPAGATION_BIDIRECTIONAL",
        ),
        (
            api.Mount(container_path="/x", host_path="/y", mount_options=["exec"]),
            "'exec' is none of",
        ),
        (api.Mount(container_path="/x", image=api.ImageSpec(image="i")), "readonly: false: images"),
        (
            api.Mount(container_path="/x", host_path="/y", uidMappings=[api.IDMapping(length=1)]),
            "uidMappings, gidMappings: must be those of the pod's user namespace",
        ),
    ],
)
def test_a_mount_that_can_t_be_is_refused(mount: api.Mount, problem: str) -> None:
    with pytest.raises(CriFault, match=problem):
        mounts.mounts(subject(api.ContainerConfig(mounts=[mount])))


@pytest.mark.parametrize(
    ("pod", "options", "kind"),
    [
        (api.POD, Options(pid=api.POD), "pod"),
        (api.POD, Options(pid=api.CONTAINER), "own"),
        (api.POD, Options(pid=api.NODE), "node"),
        (api.NODE, Options(pid=api.POD), "node"),
        (api.CONTAINER, None, "own"),
        (api.POD, Options(pid=api.TARGET, target_id="x"), "target"),
    ],
)
def test_whose_processes_a_container_sees(pod: int, options: Options | None, kind: str) -> None:
    config = secured(namespace_options=options) if options else api.ContainerConfig()
    assert namespaces.pid(config, pod_with(pid=pod)).kind == kind


@pytest.mark.parametrize(
    ("pod", "options", "problem"),
    [
        (pod_with(pid=api.CONTAINER), Options(pid=api.POD), "sandbox was made with pid CONTAINER"),
        (pod_with(), Options(pid=api.TARGET), "target_id: empty"),
        (pod_with(), Options(network=api.NODE), "network: NODE, but the sandbox has"),
        (pod_with(), Options(ipc=api.NODE), "ipc: NODE, but the sandbox has"),
        (
            pod_with(),
            Options(userns_options=api.UserNamespace(mode=api.CONTAINER)),
            "only POD and NODE",
        ),
    ],
)
def test_namespaces_that_contradict_the_pod_are_refused(
    pod: api.PodSandboxConfig, options: Options, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        namespaces.namespaces(subject(secured(namespace_options=options), pod))


@pytest.mark.parametrize(
    ("annotations", "of_pod"),
    [
        ({"io.kubernetes.cri.rdt-class": "gold"}, {}),
        ({}, {"rdt.resources.beta.kubernetes.io/pod": "gold"}),
        ({}, {"rdt.resources.beta.kubernetes.io/container.main": "gold"}),
    ],
)
def test_a_class_of_service_that_nobody_defines_is_named(
    annotations: dict[str, str], of_pod: dict[str, str]
) -> None:
    config = api.ContainerConfig(annotations=annotations)
    config.metadata.name = "main"
    pod = api.PodSandboxConfig(annotations=of_pod)
    with pytest.raises(NotImplementedYet, match=r"annotations\[.*\]: there is no .* class 'gold'"):
        container.spec(subject(config, pod))
    config.metadata.name = "other"
    others = api.PodSandboxConfig(
        annotations={"rdt.resources.beta.kubernetes.io/container.main": "gold"}
    )
    container.spec(subject(api.ContainerConfig(metadata=config.metadata), others))


def limited(**fields: object) -> api.ContainerConfig:
    made = api.ContainerConfig()
    made.linux.resources.CopyFrom(api.LinuxContainerResources(**fields))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("limit", "swap", "expected"),
    [
        (0, 0, None),
        (100, 0, Memory(limit=100, swap=100)),
        (100, 150, Memory(limit=100, swap=150)),
        (100, -1, Memory(limit=100, swap=-1)),
    ],
)
def test_without_a_word_on_swap_there_is_none(
    limit: int, swap: int, expected: Memory | None
) -> None:
    config = limited(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=swap)
    assert resources.resources(subject(config)).memory == expected


def test_a_swap_limit_below_the_memory_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="memory_swap_limit_in_bytes: 50 is below"):
        resources.resources(
            subject(limited(memory_limit_in_bytes=100, memory_swap_limit_in_bytes=50))
        )


def test_the_oom_score_is_always_set_and_never_below_what_we_may() -> None:
    assert process.oom_score(api.ContainerConfig(), -1000) == 0
    assert process.oom_score(limited(oom_score_adj=-998), -500) == -500
    with pytest.raises(InvalidRequest, match="1001 is not between"):
        process.oom_score(limited(oom_score_adj=1001), -1000)
