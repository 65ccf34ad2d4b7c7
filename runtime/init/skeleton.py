"""A lowest layer for every container: the mount points that nearly all of them need, empty.

An image seldom has /etc/hosts, and never /var/run/secrets/kubernetes.io. Making them in the
container's writable layer is slow (overlayfs copies /etc up, then makes a file by way of the work
directory), and they have to be removed again. As the lowest directory of the overlay this one is
shadowed by whatever the image has. It must lie on the file system of the layers, or files of
containers would change their device numbers.
"""

from __future__ import annotations

import os

_SERVICE_ACCOUNT = "run/secrets/kubernetes.io/serviceaccount"
_DIRECTORIES = ("dev", "etc", "proc", "sys", _SERVICE_ACCOUNT, f"var/{_SERVICE_ACCOUNT}")
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")


def make(path: str) -> None:
    """Makes the directory `path` and what belongs into it. Idempotent; raises OSError.

    The caller appends it to Rootfs.lower.
    """
    mask = os.umask(0o022)
    try:
        for name in _DIRECTORIES:
            os.makedirs(os.path.join(path, name), exist_ok=True)
        for name in _FILES:
            flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(os.path.join(path, name), flags, 0o644))
    finally:
        os.umask(mask)
