"""Who is confined by which AppArmor profile, and what is said where that can't be."""

from __future__ import annotations

import pytest

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, WrongState
from cri.specgen import apparmor, container, facts
from cri.specgen.subject import Facts
from cri.tests.subjects import secured, subject

Profile = api.SecurityProfile
LOADED = frozenset(("podwright-default", "mine", "with spaces"))


def of(loaded: frozenset[str] | None, **fields: object) -> str:
    """The profile on a node with these ones (None: no AppArmor) for a security context."""
    security = secured(**fields).linux.security_context
    return apparmor.profile(apparmor.choice(security), "podwright-default", loaded)


def kind(name: str, reference: str = "") -> api.SecurityProfile:
    return Profile(profile_type=name, localhost_ref=reference)


@pytest.mark.parametrize(
    ("fields", "profile"),
    [
        ({}, "podwright-default"),  # kubelet says nothing for most pods
        ({"apparmor": kind("RuntimeDefault")}, "podwright-default"),
        ({"apparmor": kind("Unconfined")}, ""),
        ({"apparmor": kind("Localhost", "mine")}, "mine"),
        ({"apparmor": kind("Localhost", "localhost/mine")}, "mine"),
        ({"apparmor_profile": "runtime/default"}, "podwright-default"),
        ({"apparmor_profile": "unconfined"}, ""),
        ({"apparmor_profile": "localhost/with spaces"}, "with spaces"),
        ({"apparmor": kind("Unconfined"), "apparmor_profile": "localhost/mine"}, ""),
        ({"apparmor": kind("Localhost", "mine"), "apparmor_profile": "unconfined"}, "mine"),
        ({"privileged": True}, ""),
        ({"privileged": True, "apparmor": kind("RuntimeDefault")}, ""),
        ({"privileged": True, "apparmor": kind("Localhost", "mine")}, "mine"),
    ],
)
def test_the_profile_is_the_one_asked_for_and_the_new_field_counts(
    fields: dict[str, object], profile: str
) -> None:
    assert of(LOADED, **fields) == profile


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"apparmor": kind("Localhost")}, r"apparmor\.localhost_ref: '' is no name"),
        ({"apparmor": kind("Localhost", "a\nb")}, r"apparmor\.localhost_ref: 'a\\nb' is no name"),
        ({"apparmor": kind("RuntimeDefault", "x")}, "given, though profile_type is RuntimeDefault"),
        ({"apparmor_profile": "mine"}, "apparmor_profile: 'mine' is none of"),
        ({"apparmor_profile": "localhost/"}, "apparmor_profile: '' is no name"),
    ],
)
def test_what_is_no_profile_is_refused_with_its_field(
    fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        of(LOADED, **fields)


def test_a_profile_that_is_not_loaded_is_named() -> None:
    with pytest.raises(
        WrongState, match=r"apparmor\.localhost_ref: .*'other': is not loaded.*apparmor_parser"
    ):
        of(LOADED, apparmor=kind("Localhost", "other"))
    with pytest.raises(WrongState, match=r"'podwright-default': RuntimeDefault, is not loaded"):
        of(frozenset(), apparmor_profile="runtime/default")


def test_without_apparmor_only_those_who_ask_for_it_are_refused() -> None:
    assert of(None) == ""
    assert of(None, apparmor=kind("Unconfined")) == ""
    for asked in (kind("RuntimeDefault"), kind("Localhost", "mine")):
        with pytest.raises(WrongState, match="kernel has no AppArmor"):
            of(None, apparmor=asked)


def test_who_says_nothing_is_not_refused_where_our_profile_is_missing() -> None:
    assert of(frozenset()) == ""


def test_the_profile_stands_in_the_spec() -> None:
    spec = container.spec(subject(secured(), facts=Facts(apparmor_profile="mine")))
    assert spec.process.apparmor_profile == "mine"


def test_selinux_labels_mean_nothing_where_selinux_is_off() -> None:
    config = secured(selinux_options=api.SELinuxOption(level="s0:c1,c2"))
    assert facts.gather(facts.Wanted(config)) == facts.gather(facts.Wanted(secured()))
