"""Addresses of a subnet, leased to pods: a file per address.

    DIRECTORY/              on tmpfs: a lease never outlives the boot in which it was given
        lock                held (flock) while a lease is given
        last_reserved_ip.N  where the search goes on, in subnet number N; best effort
        10.87.0.2           "SANDBOX_ID\\r\\nINTERFACE": to whom it is leased

The format is that of the CNI plugin host-local. A lease appears complete, by link(2): a crash
leaves no half-written file which would belong to nobody for ever. Each file names its owner, so a
lease without an attachment can be found and released.

A released address stays out of use for QUARANTINE seconds unless there is no other: the interface
that had it may outlive its lease by the time that the kernel takes to remove a namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from network.config import Address, Network, gateway_of
from network.errors import AddressesExhausted

QUARANTINE = 5.0

_FILE_MODE = 0o600
_DRAFT = ".draft"


class Leases:
    """The leases of one network, which has one subnet or one of each family. For one thread."""

    def __init__(self, directory: Path, networks: tuple[Network, ...]) -> None:
        self._directory = directory
        self._networks = networks
        self._last: dict[Network, Address] = {}
        self._released: dict[Address, float] = {}  # when, by time.monotonic()

    def add(self, owner: str, interface: str) -> tuple[Address, ...]:
        """Leases an address of each subnet, or none. Raises AddressesExhausted."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        given: list[Address] = []
        with self._locked(), contextlib.ExitStack() as undo:
            draft = self._draft(f"{owner}\r\n{interface}")
            undo.callback(os.unlink, draft)
            for number, network in enumerate(self._networks):
                address = self._lease(network, number, draft)
                undo.callback(os.unlink, self._path(address))
                given.append(address)
            undo.pop_all()
            os.unlink(draft)
        return tuple(given)

    def delete(self, owner: str, addresses: tuple[Address, ...]) -> None:
        """Ends these leases, as far as `owner` has them."""
        for address in addresses:
            if self._owner(address) == owner:
                os.unlink(self._path(address))
                self._released[address] = time.monotonic()

    def collect(self, known: Collection[str]) -> dict[Address, str]:
        """Ends leases of owners that are not `known`; answers what they had."""
        orphans = {address: owner for address, owner in self.owners().items() if owner not in known}
        for address, owner in orphans.items():
            self.delete(owner, (address,))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / _DRAFT)
        return orphans

    def owners(self) -> Mapping[Address, str]:
        """Who has which address, by what the files say; "" where one says nothing."""
        return {address: self._owner(address) or "" for address in self._taken()}

    def end_quarantine(self) -> None:
        """Lets every free address be used at once: what had them is known to be gone."""
        self._released.clear()

    def _lease(self, network: Network, number: int, draft: str) -> Address:
        first, last = usable(network)
        start = self._last.get(network) or self._remembered(network, number) or last
        resting = self._resting()
        taken: set[Address] | None = None
        for address in _round(first, last, start):
            if address in resting or (taken and address in taken):
                continue
            with contextlib.suppress(FileExistsError):
                os.link(draft, self._path(address))
                self._remember(network, number, address)
                return address
            if taken is None:  # most leases find their address free; only others read the directory
                taken = self._taken()
        raise AddressesExhausted(str(network), int(last) - int(first) + 1)

    def _draft(self, content: str) -> str:
        """A complete lease that needs only its name."""
        draft = f"{self._directory}/{_DRAFT}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)  # left by a crash, it may be a second name of somebody's lease
        _write(draft, content, os.O_EXCL)
        return draft

    def _resting(self) -> set[Address]:
        horizon = time.monotonic() - QUARANTINE
        self._released = {
            address: when for address, when in self._released.items() if when > horizon
        }
        return set(self._released)

    def _taken(self) -> set[Address]:
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return set()
        taken = set()
        for name in names:
            with contextlib.suppress(ValueError):  # lock, last_reserved_ip.0
                taken.add(ipaddress.ip_address(name))
        return taken

    def _owner(self, address: Address) -> str | None:
        try:
            with open(self._path(address), errors="replace") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        return content.splitlines()[0].strip() if content.strip() else ""

    def _path(self, address: Address) -> str:
        return f"{self._directory}/{address}"

    def _remembered(self, network: Network, number: int) -> Address | None:
        try:
            text = (self._directory / f"last_reserved_ip.{number}").read_text()
            address = ipaddress.ip_address(text.strip())
        except (OSError, ValueError):
            return None
        return address if address in network else None

    def _remember(self, network: Network, number: int, address: Address) -> None:
        self._last[network] = address
        with contextlib.suppress(OSError):  # it only spreads the use of addresses
            _write(f"{self._directory}/last_reserved_ip.{number}", str(address), os.O_TRUNC)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _write(path: str, content: str, flag: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, _FILE_MODE)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)


def usable(network: Network) -> tuple[Address, Address]:
    """The first and last address for pods: all but network, gateway and (IPv4) broadcast."""
    return gateway_of(network) + 1, network[-2] if network.version == 4 else network[-1]


def _round(first: Address, last: Address, start: Address) -> Iterator[Address]:
    """Every address once, beginning after `start`."""
    size = int(last) - int(first) + 1
    offset = int(start) - int(first) + 1
    for step in range(size):
        yield first + (offset + step) % size
