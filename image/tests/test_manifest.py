"""Manifests, indexes and configs: what is understood, what is refused, and how that reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.digest import Digest
from image.errors import UnsupportedImage
from image.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    TITLE,
    Descriptor,
    Index,
    Manifest,
    Platform,
    check_runnable,
    choose,
    files,
    parse,
    parse_config,
)
from image.tests import build

ARM64 = Platform("linux", "arm64", "v8")
V3 = Platform("linux", "amd64", "v3")


def entry(platform: Platform | None, text: str) -> Descriptor:
    return Descriptor(OCI_MANIFEST, Digest.of(text.encode()), 1, platform)


def chosen(node: Platform, *platforms: Platform | None) -> str:
    index = Index(tuple(entry(item, str(item)) for item in platforms))
    found = choose(index, node, "x")
    return str(found.platform)


def test_an_oci_manifest_is_read() -> None:
    built = build.image(b"", b"")
    manifest = parse(built.manifest, OCI_MANIFEST, "x")
    assert isinstance(manifest, Manifest)
    assert len(manifest.layers) == 2
    assert str(manifest.config.digest) == built.id


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, DOCKER_MANIFEST + "; charset=utf-8"])
def test_a_docker_manifest_is_read(media_type: str) -> None:
    layers = [
        {
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "digest": "sha256:" + "0" * 64,
            "size": 1,
        }
    ]
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": "sha256:" + "1" * 64,
        "size": 2,
    }
    shape = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers}
    assert isinstance(parse(json.dumps(shape).encode(), media_type, "x"), Manifest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, r"x\.config\.size: expected a number, got nothing"),
        ({"layers": {}}, r"x\.layers: expected an array, got an object"),
        ({"layers": [{"digest": "sha256:12", "size": 1}]}, r"x\.layers\[0\]\.digest: malformed"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": -1}]}, r"size: -1 is negative"),
        ({"manifests": []}, "a manifest and an index at once"),
        ({"schemaVersion": 1}, "schema 1"),
        ({"mediaType": "text/plain"}, "neither manifest nor index"),
        ({"mediaType": OCI_INDEX}, "has not that shape"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_place(
    changes: dict[str, object], message: str
) -> None:
    shape = json.loads(build.image(b"").manifest) | changes
    with pytest.raises(UnsupportedImage, match=message):
        parse(json.dumps(shape).encode(), "", "x")


def test_a_registry_can_not_pass_an_index_off_as_a_manifest() -> None:
    """The confusion of CVE-2021-41190."""
    with pytest.raises(UnsupportedImage, match="the registry says"):
        parse(build.image(b"").manifest, DOCKER_INDEX, "x")


def test_artifacts_and_encrypted_layers_are_refused_by_name() -> None:
    shape = json.loads(build.image(b"").manifest)
    shape["layers"][0]["mediaType"] += "+encrypted"
    with pytest.raises(UnsupportedImage, match=r"layer 1 .* decrypt"):
        parse(json.dumps(shape).encode(), "", "x")
    shape["config"]["mediaType"] = "application/vnd.oci.empty.v1+json"
    with pytest.raises(
        UnsupportedImage, match=r"no container image but an artifact.* without files"
    ):
        parse(json.dumps(shape).encode(), "", "x")


def artifact(*titles: str | None) -> bytes:
    layers = [
        {
            "mediaType": "text/plain",
            "digest": build.digest(str(title).encode()),
            "size": 1,
            "annotations": {} if title is None else {TITLE: title},
        }
        for title in titles
    ]
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": build.digest(b"{}"),
              "size": 2}  # fmt: skip
    return json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()


def test_an_artifacts_files_are_its_layers_with_a_title() -> None:
    names = ("weights.bin", "a b", ".wh.x", "é" * 127, "-rf", "..x", "nested:1")
    manifest = parse(artifact(names[0], None, *names[1:]), "", "x")
    assert isinstance(manifest, Manifest)
    assert manifest.artifact
    assert [title for title, _ in files(manifest, "x")] == list(names)


@pytest.mark.parametrize(
    ("titles", "why"),
    [
        (("../x",), "is a path"),
        (("/etc/passwd",), "is a path"),
        (("a/b",), "is a path"),
        (("",), "is a path"),
        ((".",), "is a path"),
        (("..",), "is a path"),
        (("a\0b",), "has characters"),
        (("a\nb",), "has characters"),
        (("x" * 256,), "longer than 255 bytes"),
        (("é" * 128,), "longer than 255 bytes"),
        (("same", "same"), "is the name of two files"),
    ],
)
def test_a_title_that_is_no_name_of_a_file_is_refused(titles: tuple[str, ...], why: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"layer {len(titles)} has the title .*{why}"):
        parse(artifact(*titles), "", "x")


def test_the_best_variant_that_runs_here_is_chosen() -> None:
    amd64 = Platform("linux", "amd64")
    v2, v3, v4 = (Platform("linux", "amd64", level) for level in ("v2", "v3", "v4"))
    assert chosen(V3, amd64, v2, v3, v4) == "linux/amd64/v3"
    assert chosen(V3, v4, amd64) == "linux/amd64"
    assert chosen(Platform("linux", "amd64", "v1"), v3, amd64) == "linux/amd64"
    assert chosen(ARM64, amd64, Platform("linux", "arm64")) == "linux/arm64"
    arm = [Platform("linux", "arm", level) for level in ("v5", "v6", "v7")]
    assert chosen(Platform("linux", "arm", "v6"), *arm) == "linux/arm/v6"
    assert (
        chosen(Platform("linux", "riscv64"), amd64, Platform("linux", "riscv64")) == "linux/riscv64"
    )
    assert chosen(V3, None) == "None"
    assert chosen(V3, None, amd64) == "linux/amd64"


def test_an_index_without_our_platform_says_what_it_offers() -> None:
    windows, unknown = Platform("windows", "amd64"), Platform("unknown", "unknown")
    with pytest.raises(UnsupportedImage, match=r"no image for linux/arm64/v8; .* windows/amd64$"):
        chosen(ARM64, windows, unknown)


def test_an_image_for_another_machine_is_refused() -> None:
    built = build.image(b"", platform={"os": "linux", "architecture": "s390x"})
    manifest = parse(built.manifest, "", "x")
    assert isinstance(manifest, Manifest)
    with pytest.raises(UnsupportedImage, match="x: it is built for linux/s390x; this node is"):
        check_runnable("x", manifest, parse_config(built.config, "x"), V3)


def test_a_config_is_read_whole() -> None:
    built = build.image(
        b"",
        config={
            "Entrypoint": ["/e"],
            "Cmd": None,
            "Env": ["A=1", "B==2"],
            "User": "1:2",
            "WorkingDir": "/w",
            "StopSignal": "SIGINT",
        },
    )
    config = parse_config(built.config, "x")
    assert config.entrypoint == ("/e",)
    assert config.cmd == ()
    assert config.env == ("A=1", "B==2")
    assert (config.user, config.working_dir, config.stop_signal) == ("1:2", "/w", "SIGINT")


@pytest.mark.parametrize("config", [{"Env": ["A"]}, {"Env": [1]}, {"User": 1}, {"Cmd": "sh"}])
def test_a_malformed_config_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(UnsupportedImage, match=r"x\.config\."):
        parse_config(build.image(b"", config=config).config, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "layers",
                    "config",
                    "digest",
                    "size",
                    "mediaType",
                    "manifests",
                    "rootfs",
                    "diff_ids",
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_document_makes_the_parsers_fail_in_another_way(value: object) -> None:
    data = json.dumps(value).encode()
    for read in (lambda: parse(data, "", "x"), lambda: parse_config(data, "x")):
        try:
            read()
        except UnsupportedImage as error:
            assert str(error).startswith("x")  # noqa: PT017 - any other error is the failure


@pytest.mark.parametrize(
    "config",
    [
        {"User": "\ud800"},
        {"Env": ["A=\udfff"]},
        {"Cmd": ["\ud800"]},
    ],
)
def test_half_a_character_is_refused_before_it_breaks_every_list(config: dict[str, object]) -> None:
    data = json.dumps({"os": "linux", "architecture": "amd64", "config": config}).encode()
    with pytest.raises(UnsupportedImage, match="no Unicode text"):
        parse_config(data, "x")
