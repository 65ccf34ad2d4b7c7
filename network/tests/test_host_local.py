"""Leases on disk: complete, exclusive, found again."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.config import Network
from network.errors import AddressesExhausted
from network.plugins.host_local import Leases, usable

BOTH = (ip_network("10.1.0.0/29"), ip_network("fd00::/64"))


def addresses(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name[:1] in "1f"}


def test_a_lease_is_one_address_of_each_family_and_says_whose_it_is(tmp_path: Path) -> None:
    leases = Leases(tmp_path, BOTH)
    assert leases.add("a", "eth0") == (ip_address("10.1.0.2"), ip_address("fd00::2"))
    assert (tmp_path / "10.1.0.2").read_bytes() == b"a\r\neth0"
    assert (tmp_path / "fd00::2").read_bytes() == b"a\r\neth0"
    assert leases.owners() == {ip_address("10.1.0.2"): "a", ip_address("fd00::2"): "a"}


def test_none_or_all(tmp_path: Path) -> None:
    leases = Leases(tmp_path, (ip_network("10.1.0.0/29"), ip_network("fd00::/126")))
    leases.add("a", "eth0")
    leases.add("b", "eth0")
    before = addresses(tmp_path)
    with pytest.raises(AddressesExhausted, match="fd00::/126: all 2 are leased"):
        leases.add("c", "eth0")
    assert addresses(tmp_path) == before
    assert not (tmp_path / ".draft").exists()


def test_gateway_network_and_broadcast_are_nobodys(tmp_path: Path) -> None:
    leases = Leases(tmp_path, BOTH[:1])
    given_ = {str(leases.add(str(number), "eth0")[0]) for number in range(5)}
    assert given_ == {f"10.1.0.{last}" for last in range(2, 7)}
    with pytest.raises(AddressesExhausted):
        leases.add("one too many", "eth0")


@given(st.ip_addresses(), st.integers(8, 126))
def test_usable_addresses_lie_inside(address: object, prefix: int) -> None:
    network: Network = ip_network((str(address), min(prefix, 30)), strict=False)
    first, last = usable(network)
    assert network[1] < first <= last <= network[-1]  # type: ignore[operator]
    if network.version == 4:
        assert last < network.broadcast_address  # type: ignore[operator]


def test_deleting_is_idempotent_and_only_for_the_owner(tmp_path: Path) -> None:
    leases = Leases(tmp_path, BOTH)
    mine = leases.add("a", "eth0")
    leases.delete("b", mine)
    assert set(leases.owners().values()) == {"a"}
    leases.delete("a", mine)
    leases.delete("a", mine)
    assert not leases.owners()


def test_a_released_address_is_the_last_to_be_given_again(tmp_path: Path) -> None:
    leases = Leases(tmp_path, BOTH[:1])
    (first,) = leases.add("a", "eth0")
    leases.delete("a", (first,))
    for number in range(4):
        assert leases.add(str(number), "eth0") != (first,)
    with pytest.raises(AddressesExhausted):
        leases.add("b", "eth0")
    leases.end_quarantine()
    assert leases.add("b", "eth0") == (first,)


def test_the_search_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    first = Leases(tmp_path, BOTH).add("a", "eth0")
    Leases(tmp_path, BOTH).delete("a", first)
    assert Leases(tmp_path, BOTH).add("b", "eth0") == (
        ip_address("10.1.0.3"),
        ip_address("fd00::3"),
    )


@pytest.mark.parametrize("remembered", ["", "junk", "192.0.2.1", "10.1.0.255"])
def test_what_can_not_be_remembered_does_not_matter(tmp_path: Path, remembered: str) -> None:
    (tmp_path / "last_reserved_ip.0").write_text(remembered)
    assert str(Leases(tmp_path, BOTH[:1]).add("a", "eth0")[0]).startswith("10.1.0.")


def test_a_draft_that_a_crash_left_linked_never_changes_its_lease(tmp_path: Path) -> None:
    leases = Leases(tmp_path, BOTH)
    leases.add("a", "eth0")
    (tmp_path / ".draft").hardlink_to(tmp_path / "10.1.0.2")
    leases.add("b", "eth0")
    assert (tmp_path / "10.1.0.2").read_bytes() == b"a\r\neth0"


def test_collect_ends_what_nobody_known_has(tmp_path: Path) -> None:
    leases = Leases(tmp_path, BOTH)
    kept = leases.add("a", "eth0")
    lost = leases.add("b", "eth0")
    (tmp_path / "10.1.0.6").write_text("")  # as another tool's crash may leave it
    assert leases.collect({"a"}) == {lost[0]: "b", lost[1]: "b", ip_address("10.1.0.6"): ""}
    assert set(leases.owners()) == set(kept)


def test_two_processes_never_get_the_same_address(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, ipaddress;"
        "from network.plugins.host_local import Leases;"
        "leases = Leases(pathlib.Path(sys.argv[1]), (ipaddress.ip_network('10.1.0.0/24'),));"
        "[print(leases.add(sys.argv[2], 'eth0')[0]) for _ in range(100)]"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), owner], stdout=subprocess.PIPE, text=True
        )
        for owner in ("a", "b")
    ]
    seen = [line for process in running for line in process.communicate()[0].split()]
    assert [process.returncode for process in running] == [0, 0]
    assert len(seen) == len(set(seen)) == 200
