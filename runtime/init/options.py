"""Mount options of a spec ("ro,rslave,size=64m") as the numbers that the kernel wants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.errors import InvalidSpec
from runtime.init.values import NOTHING, Attributes
from runtime.linux.mount import MountAttr, Propagation

# option: (bits to set, bits to clear). With an "r" before the name, it goes for the whole tree.
# Plain integers: arithmetic of an IntFlag costs a hundred times as much.
_ATIME = int(MountAttr.ATIME)
_ATTRIBUTES: Mapping[str, tuple[int, int]] = {
    option: (int(bits), int(clear))
    for option, bits, clear in (
        ("ro", MountAttr.RDONLY, 0),
        ("rw", 0, MountAttr.RDONLY),
        ("nosuid", MountAttr.NOSUID, 0),
        ("suid", 0, MountAttr.NOSUID),
        ("nodev", MountAttr.NODEV, 0),
        ("dev", 0, MountAttr.NODEV),
        ("noexec", MountAttr.NOEXEC, 0),
        ("exec", 0, MountAttr.NOEXEC),
        ("nodiratime", MountAttr.NODIRATIME, 0),
        ("diratime", 0, MountAttr.NODIRATIME),
        ("relatime", MountAttr.RELATIME, MountAttr.ATIME),
        ("norelatime", MountAttr.STRICTATIME, MountAttr.ATIME),
        ("noatime", MountAttr.NOATIME, MountAttr.ATIME),
        ("atime", MountAttr.RELATIME, MountAttr.ATIME),
        ("strictatime", MountAttr.STRICTATIME, MountAttr.ATIME),
        ("nostrictatime", MountAttr.RELATIME, MountAttr.ATIME),
        ("nosymfollow", MountAttr.NOSYMFOLLOW, 0),
        ("symfollow", 0, MountAttr.NOSYMFOLLOW),
    )
}
_TREE_ATTRIBUTES: Mapping[str, tuple[int, int]] = {
    f"r{option}": bits for option, bits in _ATTRIBUTES.items()
}
PROPAGATIONS: Mapping[str, tuple[int, bool]] = {
    f"{prefix}{kind.name.lower()}": (int(kind), bool(prefix))
    for kind in (
        Propagation.PRIVATE,
        Propagation.SLAVE,
        Propagation.SHARED,
        Propagation.UNBINDABLE,
    )
    for prefix in ("", "r")
}
_MEANINGLESS = frozenset(("defaults", "async", "silent", "loud", "nomand", "nolazytime"))
_UNSUPPORTED: Mapping[str, str] = {
    "remount": "nothing is mounted yet that could be remounted",
    "move": "a mount can't be moved into a container; bind it",
    "idmap": "idmapped mounts are not supported",
    "ridmap": "idmapped mounts are not supported",
    "tmpcopyup": "copying the image's files into a tmpfs is not supported",
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """bind, recursive: from bind, rbind; propagation 0: none was named; the rest: see MountStep."""

    bind: bool = False
    recursive: bool = False
    attributes: Attributes = NOTHING
    tree: Attributes = NOTHING
    propagation: int = 0
    propagation_recursive: bool = False
    parameters: tuple[tuple[str, ...], ...] = ()


def parse(options: Iterable[str], path: str) -> MountOptions:
    """path: where in the spec they stand. Later options win. Raises InvalidSpec."""
    bind = recursive = propagation_recursive = False
    propagation = 0
    attributes, tree = _Bits(), _Bits()
    parameters: dict[str, str] = {}
    for option in options:
        if option in ("bind", "rbind"):
            bind, recursive = True, option == "rbind"
        elif option in _ATTRIBUTES:
            attributes.apply(*_ATTRIBUTES[option])
        elif option in _TREE_ATTRIBUTES:
            tree.apply(*_TREE_ATTRIBUTES[option])
        elif option in PROPAGATIONS:
            propagation, propagation_recursive = PROPAGATIONS[option]
        elif option in _UNSUPPORTED:
            raise InvalidSpec(path, f'option "{option}": {_UNSUPPORTED[option]}')
        elif option and option not in _MEANINGLESS:
            key, _, value = option.partition("=")
            parameters[key] = value
    return MountOptions(
        bind=bind,
        recursive=recursive,
        attributes=attributes.value(),
        tree=tree.value(),
        propagation=propagation,
        propagation_recursive=propagation_recursive,
        parameters=tuple(parameters.items()),
    )


class _Bits:
    """Attributes being gathered: what comes later undoes what came before."""

    def __init__(self) -> None:
        self._set = 0
        self._clear = 0

    def apply(self, bits: int, clear: int) -> None:
        self._set = (self._set & ~clear) | bits
        self._clear = (self._clear & ~(bits & ~_ATIME)) | clear

    def value(self) -> Attributes:
        return Attributes(self._set, self._clear)
