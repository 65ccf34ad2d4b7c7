"""What this node has of SELinux: whether it is on, and what its policy wants containers to be.

The kernel's side is selinuxfs (`/sys/fs/selinux`): `enforce` is 0 or 1, and what is written to
`context` is refused with EINVAL unless the policy that is loaded knows it. The policy's side is a
file of contexts, selinux_lxc_contexts(5), which container-selinux brings as well.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import RuntimeFault
from runtime.selinux.label import CATEGORIES, Label, sensitivity

SELINUXFS = "fs/selinux"
CONFIG = "etc/selinux/config"
CONTAINERS = "usr/share/containers/selinux/contexts"  # where the containers' own package has it
PRIVILEGED = "spc_t"  # "super privileged container": confined by nothing
REMEDY = 'install the policy for containers (container-selinux), or set containers.selinux = "off"'


class PolicyUnusable(RuntimeFault):
    """SELinux is on, but its policy says nothing of containers; the text says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """process, file: labels of containers and of their files, without the categories of a pod.

    image: of files that all containers may read and execute; privileged: of processes that are not
    to be confined, None: the policy has no such.
    """

    process: Label
    file: Label
    image: Label
    privileged: Label | None = None


def enabled(sys: Path = Path("/sys")) -> bool:
    """Whether the kernel has SELinux on, and lets us ask it (in a container it doesn't)."""
    place = sys / SELINUXFS
    try:
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
    except OSError:
        return False
    return not read_only and (place / "enforce").exists()


def enforcing(sys: Path = Path("/sys")) -> bool:
    """Whether it refuses what its policy doesn't allow. Raises OSError."""
    return (sys / SELINUXFS / "enforce").read_text().strip() == "1"


def knows(label: Label, sys: Path = Path("/sys")) -> bool:
    """Whether the policy that is loaded has this label. Raises OSError if the kernel won't say."""
    fd = os.open(sys / SELINUXFS / "context", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, str(label).encode())
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        os.close(fd)
    return True


def policy(root: Path = Path("/"), sys: Path = Path("/sys")) -> Policy:
    """What the node's policy wants. Raises PolicyUnusable."""
    path = contexts_file(root)
    try:
        found = _pairs(path.read_text(errors="replace"))
    except OSError as error:
        raise PolicyUnusable(f"{path}: {error.strerror}: {REMEDY}") from error
    process, file = (_default(found, name, path, sys) for name in ("process", "file"))
    image = _default(found, "ro_file", path, sys) if "ro_file" in found else file
    privileged = replace(process, type=PRIVILEGED)
    return Policy(process, file, image, privileged if knows(privileged, sys) else None)


def contexts_file(root: Path = Path("/")) -> Path:
    """Where the policy says what containers are."""
    if (root / CONTAINERS).exists():
        return root / CONTAINERS
    try:
        kind = _pairs((root / CONFIG).read_text(errors="replace")).get("SELINUXTYPE", "")
    except OSError:
        kind = ""
    return root / "etc/selinux" / (kind or "targeted") / "contexts/lxc_contexts"


def _default(found: Mapping[str, str], name: str, path: Path, sys: Path) -> Label:
    try:
        label = Label.parse(found.get(name, ""))
    except ValueError as error:
        raise PolicyUnusable(f"{path}: {name}: {error}: {REMEDY}") from error
    widest = label.level and f"{sensitivity(label.level)}:c0,c{CATEGORIES - 1}"
    try:
        known = knows(replace(label, level=widest), sys)
    except OSError as error:
        raise PolicyUnusable(f"{sys / SELINUXFS}/context: {error.strerror}") from error
    if not known:
        text = f'{path}: {name}: the kernel\'s policy has no label "{label}" with categories'
        raise PolicyUnusable(f"{text} up to c{CATEGORIES - 1}: {REMEDY}")
    return label


def _pairs(text: str) -> dict[str, str]:
    """name = "value", a line each; # begins a comment."""
    lines = (line.strip() for line in text.splitlines())
    split = (line.partition("=") for line in lines if not line.startswith(("#", ";")))
    return {name.strip(): value.strip().strip('"') for name, equals, value in split if equals}
