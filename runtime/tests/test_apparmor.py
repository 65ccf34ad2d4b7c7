"""Our AppArmor profile is one that the parser takes; what a kernel lacks is said."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.apparmor import profiles
from runtime.tests.init_support import Image

UNPACKED = Path(__file__).resolve().parents[2] / ".venv/debian/sbin"
PARSER = shutil.which(profiles.PARSER, path=f"{UNPACKED}:{profiles.PATH}")
needs_parser = pytest.mark.skipif(PARSER is None, reason="no apparmor_parser: `make test` has one")


@needs_parser
def test_the_profile_is_one_and_compiles() -> None:
    assert PARSER is not None
    names = subprocess.run([PARSER, "--names", profiles.TEXT], capture_output=True, check=True)
    assert names.stdout.split() == [profiles.DEFAULT.encode()]
    compiled = subprocess.run(
        [PARSER, "--skip-kernel-load", "--skip-cache", "--stdout", profiles.TEXT],
        capture_output=True,
        check=True,
    )
    assert profiles.DEFAULT.encode() in compiled.stdout


def test_the_profile_needs_no_other_file() -> None:
    lines = [line.strip() for line in profiles.TEXT.read_text().splitlines()]
    assert not [line for line in lines if line.startswith(("include", "#include", "abi"))]


def test_names_of_profiles_may_have_anything_in_them(tmp_path: Path) -> None:
    place = tmp_path / "kernel/security/apparmor"
    place.mkdir(parents=True)
    (place / "profiles").write_text("/usr/bin/man (enforce)\na (b) c (complain)\nx//y (kill)\n")
    assert profiles.loaded(tmp_path) == {"/usr/bin/man", "a (b) c", "x//y"}


@pytest.mark.parametrize(("content", "enabled"), [("Y\n", True), ("N\n", False), (None, False)])
def test_apparmor_is_on_where_the_kernel_says_so(
    tmp_path: Path, content: str | None, enabled: bool
) -> None:
    place = tmp_path / "module/apparmor/parameters"
    place.mkdir(parents=True)
    if content is not None:
        (place / "enabled").write_text(content)
    assert profiles.enabled(tmp_path) is enabled


def test_without_a_parser_it_is_said_where_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "PATH", str(tmp_path))
    with pytest.raises(profiles.ProfileNotLoaded, match="apt install apparmor"):
        profiles.load_default()


@pytest.mark.root
@needs_parser
@pytest.mark.skipif(profiles.enabled(), reason="this kernel takes profiles")
def test_a_kernel_that_takes_no_profile_is_told_in_the_parsers_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiles, "PATH", f"{UNPACKED}:{profiles.PATH}")
    with pytest.raises(profiles.ProfileNotLoaded, match=r"ends with \d+: .+"):
        profiles.load_default()


@pytest.mark.root
def test_a_profile_that_the_kernel_does_not_have_ends_the_start(tmp_path: Path) -> None:
    outcome = Image(tmp_path).sh("true", {"apparmor_profile": "no-such-profile"})
    assert outcome.failure.startswith("confinement")
    assert '"no-such-profile"' in outcome.failure
