"""What a container may do: capabilities, seccomp filters, hidden paths, privileges."""

from __future__ import annotations

import pytest

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from cri.specgen import container, security
from cri.specgen.subject import Facts
from cri.tests.subjects import Context, secured, subject
from runtime.init.capabilities import NAMES
from runtime.spec import Capabilities, Seccomp

Profile = api.SecurityProfile


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], ["ALL"], set()),
        (["ALL"], ["CHOWN"], set(NAMES) - {"CAP_CHOWN"}),
        (["net_admin"], ["ALL"], {"CAP_NET_ADMIN"}),
        (
            ["CAP_SYS_TIME"],
            ["CAP_KILL"],
            security.DEFAULT_CAPABILITIES - {"CAP_KILL"} | {"CAP_SYS_TIME"},
        ),
        (["KILL"], ["KILL"], security.DEFAULT_CAPABILITIES - {"CAP_KILL"}),
    ],
)
def test_capabilities_are_added_and_dropped_by_name_after_all(
    add: list[str], drop: list[str], expected: set[str]
) -> None:
    context = Context(capabilities=api.Capability(add_capabilities=add, drop_capabilities=drop))
    result = security.capabilities(context)
    assert set(result.bounding) == expected
    assert result == Capabilities(result.bounding, result.bounding, result.bounding)


def test_ambient_capabilities_are_only_what_the_container_has() -> None:
    asked = api.Capability(add_ambient_capabilities=["NET_BIND_SERVICE", "SYS_ADMIN"])
    result = security.capabilities(Context(capabilities=asked))
    assert result.ambient == result.inheritable == ("CAP_NET_BIND_SERVICE",)


def test_a_misspelt_capability_is_told_of_with_the_right_one() -> None:
    asked = api.Capability(drop_capabilities=["NETADMIN"])
    with pytest.raises(
        InvalidRequest, match=r"drop_capabilities: .*'NETADMIN': did you mean NET_ADMIN"
    ):
        security.capabilities(Context(capabilities=asked))


def test_a_privileged_container_needs_a_privileged_sandbox() -> None:
    with pytest.raises(InvalidRequest, match="no privileged container is allowed"):
        container.spec(subject(secured(privileged=True)))


def test_empty_lists_hide_nothing_but_no_context_hides_the_usual() -> None:
    assert security.masked_paths(subject(secured())) == ()
    assert security.readonly_paths(subject(secured())) == ()
    assert security.masked_paths(subject(api.ContainerConfig())) == security.MASKED_PATHS
    assert security.readonly_paths(subject(api.ContainerConfig())) == security.READONLY_PATHS


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (Context(), security.UNCONFINED),
        (Context(seccomp=Profile(profile_type=Profile.Unconfined)), security.UNCONFINED),
        (Context(seccomp=Profile()), security.DEFAULT),
        (Context(seccomp=Profile(), privileged=True), security.UNCONFINED),
        (Context(seccomp_profile_path="runtime/default"), security.DEFAULT),
        (
            Context(seccomp_profile_path="localhost//p.json"),
            security.SeccompChoice("localhost", "/p.json"),
        ),
        (
            Context(seccomp=Profile(profile_type=Profile.Localhost, localhost_ref="/p.json")),
            security.SeccompChoice("localhost", "/p.json"),
        ),
    ],
)
def test_the_seccomp_filter_is_the_one_that_was_asked_for(
    context: Context, expected: security.SeccompChoice
) -> None:
    assert security.seccomp_choice(context) == expected


@pytest.mark.parametrize(
    "context",
    [
        Context(seccomp=Profile(localhost_ref="/p.json")),
        Context(seccomp=Profile(profile_type=Profile.Localhost, localhost_ref="p.json")),
        Context(seccomp_profile_path="p.json"),
    ],
)
def test_a_seccomp_request_that_contradicts_itself_is_refused(context: Context) -> None:
    with pytest.raises(InvalidRequest, match="seccomp"):
        security.seccomp_choice(context)


def test_a_profile_from_a_file_wins_over_the_built_in_one() -> None:
    loaded = Seccomp("SCMP_ACT_ALLOW")
    asked = subject(secured(seccomp=Profile()), facts=Facts(seccomp=loaded))
    assert container.spec(asked).linux.seccomp is loaded
