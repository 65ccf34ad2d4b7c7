"""What a monitor's children need to have an OCI runtime make a container; and what they make of it.

The daemon compiles the plan, the monitor holds it as a file that it never reads, its children load
it. The functions are pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from runtime.init.values import Identity, RootPlan
from runtime.spec import NEW_NAMESPACE, UserLookup

Json = dict[str, object]
CONFIG, ROOTFS, SHM = "config.json", "rootfs", "shm"  # names in the bundle
CREATE = "create"  # of the files that belong to the run that makes the container


@dataclass(frozen=True, slots=True)
class OciPlan:
    """A container for a binary.

    binary, arguments: the program and its global arguments; root: its state directory;
    place: where the bundle is mounted, in a mount namespace of the container's own;
    hidden: mounts of the node which the binary is not to see; config: config.json as text, in which
    the user, namespaces and capabilities are not final; lookup: the user, if only the image's files
    can tell.
    """

    binary: str
    root: str
    place: str
    rootfs: RootPlan
    config: str
    arguments: tuple[str, ...] = ()
    lookup: UserLookup | None = None
    hidden: tuple[str, ...] = ()

    def command(self, log: str, verb: str, *words: str) -> list[str]:
        """The command line of one run. log: the name of its log in the bundle."""
        return [
            self.binary,
            *self.arguments,
            *("--root", self.root, "--log", f"{self.place}/{log}", "--log-format", "json"),
            verb,
            *words,
        ]

    def document(self) -> Json:
        """config.json, to be changed."""
        return cast(Json, json.loads(self.config))


def identity_of(config: Json) -> Identity:
    """Who the process is, where config.json says so in numbers."""
    user = _part(_part(config, "process"), "user")
    uid, gid = cast(int, user.get("uid", 0)), cast(int, user.get("gid", 0))
    return Identity(uid, gid, tuple(cast(list[int], user.get("additionalGids", []))))


def complete(
    config: Json,
    identity: Identity,
    *,
    namespaces: Mapping[str, str],
    hostname: str,
    held: Iterable[str],
) -> list[str]:
    """Makes config.json final; answers a sentence for what was asked for but can't be given.

    namespaces: type -> path of those that the pod shares; hostname: the pod's; held: the
    capabilities that we have.
    """
    linux, process = _part(config, "linux"), _part(config, "process")
    for item in cast(list[Json], linux.get("namespaces", [])):
        path, given = namespaces.get(str(item["type"])), str(item.get("path", ""))
        if given == NEW_NAMESPACE:
            del item["path"]
        elif path is not None and not given.startswith("/"):
            item["path"] = path
        if item["type"] == "uts":
            config["hostname"] = hostname  # for a kernel that does not share ours
    become(process, identity)
    return limit(process, held)


def linux(config: Json) -> Json:
    """The part of config.json."""
    return _part(config, "linux")


def become(process: Json, identity: Identity) -> None:
    """The user of a process, and the HOME that goes with it unless env has one."""
    user = _part(process, "user")
    user["uid"], user["gid"] = identity.uid, identity.gid
    user["additionalGids"] = list(identity.groups)
    env = cast(list[str], process.setdefault("env", []))
    if not any(item.startswith("HOME=") and item != "HOME=" for item in env):
        env[:] = [item for item in env if item != "HOME="]
        env.append(f"HOME={identity.home or '/'}")


def command_process(config: Json, args: tuple[str, ...], *, terminal: bool) -> Json:
    """The process.json of an exec: as the container's process, but for what it runs."""
    process = dict(_part(config, "process"))
    process["args"] = list(args)
    process["terminal"] = terminal
    process.pop("consoleSize", None)
    env = list(cast(list[str], process.get("env", [])))
    if terminal and not any(item.startswith("TERM=") for item in env):
        env.append("TERM=xterm")
    process["env"] = env
    return process


def last_error(log: bytes) -> str:
    """What a binary says went wrong: the text of the last error in its log of JSON lines; "": it
    says nothing."""
    for line in reversed(log.splitlines()):
        try:
            entry: object = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic"):
            return str(entry.get("msg", ""))[:4096].strip()
    return ""


def limit(process: Json, held: Iterable[str]) -> list[str]:
    """Takes out capabilities that nobody here can give, as a binary would fail for them."""
    capabilities, available = _part(process, "capabilities"), frozenset(held)
    missing: set[str] = set()
    for kind in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        wanted = cast(list[str], capabilities.get(kind, []))
        capabilities[kind] = [name for name in wanted if name in available]
        missing |= {name for name in wanted if name not in available}
    if not missing:
        return []
    return [f"podwright has no {', '.join(sorted(missing))}, so neither has the container"]


def _part(document: Json, name: str) -> Json:
    return cast(Json, document.setdefault(name, {}))
