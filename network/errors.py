"""Everything that can go wrong in the network, as types that carry data, not gRPC codes."""

from __future__ import annotations


class NetworkFault(Exception):
    """Root of all failures of this package."""


class NetworkNotReady(NetworkFault):
    """There is no network to which a pod could be attached; the text says why and the remedy."""


class InvalidAttachment(NetworkFault):
    """The request asks for something that can't be: `field` says where, `text` what and why."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


class AddressesExhausted(NetworkFault):
    """Every address of a subnet is leased, also after leases that nobody owns were released."""

    def __init__(self, subnet: str, leased: int) -> None:
        super().__init__(
            f"no address is free in {subnet}: all {leased} are leased;"
            " remove pods or give [network] subnets a larger one"
        )
        self.subnet = subnet
        self.leased = leased


class HostPortTaken(NetworkFault):
    """Another pod has this port of the node."""

    def __init__(self, port: str, owner: str, sandbox_id: str) -> None:
        super().__init__(f"host port {port} is already used by pod {owner} (sandbox {sandbox_id})")
        self.port = port
        self.owner = owner
        self.sandbox_id = sandbox_id


class DeviceUnavailable(NetworkFault):
    """An interface of the node that a pod can't have; the text says why."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"network device {name}: {text}")
        self.name = name


class KernelRefused(NetworkFault):
    """The kernel said no. `step`: what was tried; the cause (`__cause__`) is the OSError."""

    def __init__(self, step: str, cause: OSError) -> None:
        where = f": {cause.filename}" if cause.filename else ""
        super().__init__(f"{step}{where}: {cause.strerror or cause}")
        self.step = step
        self.errno = cause.errno
