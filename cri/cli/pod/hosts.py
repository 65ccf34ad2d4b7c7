"""The pod's /etc/hosts: its own name and its hostAliases, as kubelet writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cri.cli.pod.manifest import Fields

HEAD = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def write(path: Path, aliases: list[Fields], hostname: str, ip: str) -> None:
    """Writes the file, unless a pod on the node's network wants nothing but the node's own."""
    if not aliases and not ip:
        return
    own = [f"{ip}\t{hostname}"] if ip else []
    more = [f"{alias.text('ip')}\t{' '.join(alias.texts('hostnames'))}" for alias in aliases]
    path.write_text(HEAD + "\n".join([*own, *more]) + "\n")
