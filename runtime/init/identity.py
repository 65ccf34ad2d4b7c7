"""Who the process will be: names and groups from the image's own /etc/passwd and /etc/group.

The files are an attacker's: they are opened inside the root, never followed out of it, read only if
regular and only up to a limit, parsed here and not by libc (which would load NSS modules of the
image: CVE-2019-14271), and every number is checked (CVE-2024-40635).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runtime.init.context import Context
from runtime.init.values import Identity
from runtime.linux import resolve
from runtime.spec import UserLookup

LIMIT = 10 * 1024 * 1024  # bytes of a file
_MAX_ID = 2**32 - 2
_MAX_GROUPS = 65536
_PASSWD, _GROUP = b"/etc/passwd", b"/etc/group"


@dataclass(frozen=True, slots=True)
class Account:
    """A line of /etc/passwd."""

    name: bytes
    uid: int
    gid: int
    home: str


class Accounts:
    """A root file system's users and groups; each file is read once, when first asked for."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._files: dict[bytes, bytes] = {}

    def by_name(self, name: bytes) -> Account | None:
        """The user of that name. OSError for a line that makes no sense."""
        fields = self._named(_PASSWD, name)
        return _account(fields) if fields else None

    def by_uid(self, uid: int) -> Account | None:
        """The first user with that number; lines that make no sense are passed over."""
        number = b"%d" % uid
        for fields in self._lines(_PASSWD):
            if len(fields) >= 6 and fields[2] == number:
                return _account(fields)
        return None

    def gid_of(self, name: bytes) -> int | None:
        """The number of the group of that name."""
        fields = self._named(_GROUP, name)
        return _number(fields[2], _GROUP) if fields else None

    def groups_of(self, user: bytes) -> list[int]:
        """The groups that list the user as a member."""
        found = []
        for fields in self._lines(_GROUP):
            if len(fields) >= 4 and user in fields[3].split(b","):
                found.append(_number(fields[2], _GROUP))
        return found

    def _named(self, path: bytes, name: bytes) -> list[bytes] | None:
        for fields in self._lines(path):
            if fields[0] == name and len(fields) >= 3:
                return fields
        return None

    def _lines(self, path: bytes) -> Iterator[list[bytes]]:
        for line in self._read(path).split(b"\n"):
            if line and not line.startswith(b"#"):
                yield line.rstrip(b"\r").split(b":")

    def _read(self, path: bytes) -> bytes:
        if path not in self._files:
            try:
                self._files[path] = resolve.read_in_root(self._root, path, LIMIT)
            except (FileNotFoundError, NotADirectoryError):
                self._files[path] = b""
            except OSError as error:
                text = f"the image's {path.decode()}: {error.strerror}"
                raise OSError(error.errno, text) from None
        return self._files[path]


def find(lookup: UserLookup, accounts: Accounts) -> Identity:
    """The identity that a lookup means in a root file system. Raises OSError for unknown names."""
    name, colon, group = lookup.user.partition(":")
    if colon and not (name and group):
        raise OSError(errno.EINVAL, f'user "{lookup.user}": "user:group" needs both parts')
    account = _user(name or "0", accounts)
    gid = account.gid
    if lookup.group is not None:
        gid = lookup.group
    elif group:
        gid = _group(group, accounts)
    groups = [gid, *lookup.supplemental]
    if lookup.merge and account.name:
        groups += accounts.groups_of(account.name)
    unique = tuple(dict.fromkeys(groups))
    if len(unique) > _MAX_GROUPS:
        raise OSError(errno.EINVAL, f"{len(unique)} groups; Linux allows {_MAX_GROUPS}")
    return Identity(account.uid, gid, unique, account.home)


def _user(name: str, accounts: Accounts) -> Account:
    if _is_number(name):
        uid = _number(name.encode(), _PASSWD)
        return accounts.by_uid(uid) or Account(b"", uid, 0, "")
    account = accounts.by_name(os.fsencode(name))
    if account is None:
        raise OSError(errno.EINVAL, f'user "{name}" not found in the image\'s /etc/passwd')
    return account


def _group(name: str, accounts: Accounts) -> int:
    if _is_number(name):
        return _number(name.encode(), _GROUP)
    gid = accounts.gid_of(os.fsencode(name))
    if gid is None:
        raise OSError(errno.EINVAL, f'group "{name}" not found in the image\'s /etc/group')
    return gid


def _is_number(text: str) -> bool:
    """Decimal ASCII digits only: no sign, no space, no 0x, no ٣."""
    return text.isascii() and text.isdigit()


def _number(text: bytes, path: bytes) -> int:
    if not text.isdigit() or len(text) > 10 or int(text) > _MAX_ID:
        shown = text[:20].decode("ascii", "replace")
        raise OSError(errno.ERANGE, f'"{shown}" is no id in 0..{_MAX_ID} ({path.decode()})')
    return int(text)


def _account(fields: list[bytes]) -> Account:
    if len(fields) < 6:
        raise OSError(errno.EINVAL, "the image's /etc/passwd has a line with too few fields")
    home = os.fsdecode(fields[5])
    return Account(
        name=fields[0],
        uid=_number(fields[2], _PASSWD),
        gid=_number(fields[3], _PASSWD),
        home=home if home.startswith("/") and home.isprintable() else "",
    )


def settle(context: Context) -> None:
    """Step: context.identity becomes final."""
    process = context.process
    accounts = Accounts(context.root_fd)
    if process.lookup is not None:
        context.identity = find(process.lookup, accounts)
    elif process.home_lookup:
        account = accounts.by_uid(context.identity.uid)
        if account:
            context.identity = replace(context.identity, home=account.home)
    _require_mapped(context)


def _require_mapped(context: Context) -> None:
    user_map, who = context.process.user_map, context.identity
    if user_map is None:
        return
    if who.uid >= user_map.uids:
        raise OSError(errno.EINVAL, f"user {who.uid}: the pod has the users 0..{user_map.uids - 1}")
    group = max((who.gid, *who.groups))
    if group >= user_map.gids:
        raise OSError(errno.EINVAL, f"group {group}: the pod has the groups 0..{user_map.gids - 1}")


def adopt(context: Context) -> None:
    """Step of an exec'ed process: it is who the container's first process is."""
    known = context.target.identity if context.target else None
    if known is None:
        return
    if context.process.lookup is not None:
        context.identity = known
    elif not context.identity.home and context.identity.uid == known.uid:
        context.identity = replace(context.identity, home=known.home)
