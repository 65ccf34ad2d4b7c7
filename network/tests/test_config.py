"""Settings that can't be used are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from network.config import NetworkSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subnets": ()}, "subnets: name one"),
        ({"subnets": ("10.0.0.1/16",)}, r"subnets: 10\.0\.0\.1/16 has host bits set"),
        ({"subnets": ("ten",)}, "subnets: 'ten' does not appear"),
        ({"subnets": ("10.0.0.0/31",)}, "too small"),
        ({"subnets": ("10.0.0.0/24", "10.1.0.0/24")}, "at most one IPv4"),
        ({"bridge": "x" * 16}, "bridge: .*1 to 15 bytes"),
        ({"bridge": "a/b"}, "bridge: .*no '/'"),
        ({"bridge": ".."}, "bridge: "),
        ({"bridge": "all"}, "bridge: 'all' is a name that the kernel keeps"),
        ({"mtu": 100}, "mtu: 100"),
        ({"mtu": 1000, "subnets": ("fd00::/64",)}, "1280"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSettings(enabled=True, state_dir=Path("/run"), **settings)  # type: ignore[arg-type]


def test_ipv4_comes_first() -> None:
    settings = NetworkSettings(
        enabled=True, state_dir=Path("/run"), subnets=("fd00::/64", "10.0.0.0/24")
    )
    assert [network.version for network in settings.networks()] == [4, 6]
