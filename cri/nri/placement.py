"""Where a plugin may put a container's cgroup: anywhere below its pod's. Pure.

Other runtimes take any path. Here the limits, the statistics and the end of a pod all hold for what
is below its cgroup, and for nothing else: a container elsewhere would escape them.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.cgroup import files, units
from runtime.errors import InvalidSpec

_FORM = "SLICE:PREFIX:NAME, for PREFIX-NAME.scope in the pod's slice"


def cgroup(wanted: str, parent: str, others: Iterable[str]) -> str:
    """The path of its cgroup. parent: the pod's; others: of the pod's other containers.

    With systemd's cgroups `wanted` is SLICE:PREFIX:NAME, as in the OCI specification's. Raises
    ValueError saying why it can't be.
    """
    path = _scope(wanted, parent) if units.is_slice(parent) else _below(wanted, parent)
    for other in others:
        for outer, inner in ((path, other), (other, path)):
            if f"{inner}/".startswith(f"{outer}/"):
                raise ValueError(f"{wanted!r}: another container of the pod has {other}")
    return path


def _below(wanted: str, parent: str) -> str:
    try:
        path = files.checked_path(wanted)
        units.refuse_units(path)
    except InvalidSpec as error:
        raise ValueError(error.text) from None
    if not path.startswith(f"{parent}/"):
        raise ValueError(f"{wanted!r} is not below the pod's cgroup, {parent}")
    return path


def _scope(wanted: str, parent: str) -> str:
    slice_name, _, rest = wanted.partition(":")
    prefix, _, name = rest.partition(":")
    own = parent.rpartition("/")[2]
    if not name or slice_name not in ("", own):
        raise ValueError(f"{wanted!r} must be {_FORM}, {own}")
    path = units.in_scope_of(parent, f"{prefix}-{name}.scope")
    try:
        units.scope_and_slice(files.checked_path(path))
    except InvalidSpec as error:
        raise ValueError(error.text) from None
    if not all(letter.isalnum() or letter in ":-_.\\" for letter in f"{prefix}{name}"):
        raise ValueError(f"{wanted!r}: a unit's name has letters, digits and :-_.\\ only")
    return path
