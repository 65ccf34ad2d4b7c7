"""Names become references, or are refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.digest import Digest
from image.errors import ReferenceMalformed
from image.reference import Reference

SHA = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/team/app:2", "docker.io/team/app:2"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("[::1]:5000/a/b:1", "[::1]:5000/a/b:1"),
        ("registry.k8s.io/e2e-test-images/busybox:1.29-2",) * 2,
        ("Host/app", "Host/app:latest"),
        (f"quay.io/a/b__c/d-e@{SHA}",) * 2,
        (f"quay.io/a/b:tag@{SHA}",) * 2,
    ],
)
def test_a_short_name_means_a_whole_reference(text: str, whole: str) -> None:
    assert str(Reference.parse(text)) == whole


def test_a_digest_beside_a_tag_wins() -> None:
    reference = Reference.parse(f"quay.io/a/b:tag@{SHA}")
    assert reference.digest == Digest.parse(SHA)
    assert reference.tagged == ""


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "/", "a:", "a:b:c", "UPPER", "a//b", "/a", "a/", "a b", "-a", "a..b", "a/_b"),
        *(
            "a@",
            "a@sha256:12",
            "a@md5:" + "0" * 32,
            f"a@{SHA.upper()}",
            "a:" + "t" * 129,
            "ab" * 32,
        ),
        *("host:port/a", "ho st.x/a", "a.b/" + "c" * 300, "http://a.b/c", "a\n", "ä", "\udcff"),
    ],
)
def test_a_malformed_name_is_refused_with_its_text_and_a_reason(text: str) -> None:
    with pytest.raises(ReferenceMalformed) as caught:
        Reference.parse(text)
    assert caught.value.text == text
    assert caught.value.reason in str(caught.value)


@given(st.text(alphabet="aB0.:/@_-[]", max_size=40))
def test_whatever_parses_means_the_same_when_written_out(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ReferenceMalformed:
        return
    assert Reference.parse(str(reference)) == reference
