"""Which AppArmor profile a container asks for. Pure.

The field `apparmor` counts, and without it the one that it replaced. Who says nothing gets what
RuntimeDefault gets where the node has it; kubelet sends nothing for most pods.
"""

from __future__ import annotations

from dataclasses import dataclass

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, WrongState

_CONTEXT = "config.linux.security_context"
NEW, OLD = f"{_CONTEXT}.apparmor", f"{_CONTEXT}.apparmor_profile"
_LOCALHOST = "localhost/"
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Choice:
    """name: a profile that the node's administrator loads, "": that of the runtime.

    wanted: it is to be confined; field: where the request says so, "" if it says nothing.
    """

    wanted: bool
    name: str = ""
    field: str = ""


UNCONFINED = Choice(wanted=False)


def choice(security: api.LinuxContainerSecurityContext) -> Choice:
    """What is asked for. Privileged containers are confined only by a profile that they name."""
    found = _new(security.apparmor) if security.HasField("apparmor") else _old(security)
    return UNCONFINED if security.privileged and not found.name else found


def _new(profile: api.SecurityProfile) -> Choice:
    if profile.profile_type == api.SecurityProfile.Localhost:
        name = profile.localhost_ref.removeprefix(_LOCALHOST)
        return _named(name, f"{NEW}.localhost_ref")
    if profile.localhost_ref:
        kind = api.SecurityProfile.ProfileType.Name(profile.profile_type)
        raise InvalidRequest(f"{NEW}.localhost_ref", f"given, though profile_type is {kind}")
    if profile.profile_type == api.SecurityProfile.Unconfined:
        return UNCONFINED
    return Choice(wanted=True, field=NEW)


def _old(security: api.LinuxContainerSecurityContext) -> Choice:
    text = security.apparmor_profile
    if text == "unconfined":
        return UNCONFINED
    if text in ("", "runtime/default"):
        return Choice(wanted=True, field=OLD if text else "")
    if text.startswith(_LOCALHOST):
        return _named(text.removeprefix(_LOCALHOST), OLD)
    raise InvalidRequest(
        OLD, f"{text!r} is none of runtime/default, unconfined, localhost/<profile>"
    )


def _named(name: str, field: str) -> Choice:
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise InvalidRequest(field, f"{name!r} is no name of a profile")
    return Choice(wanted=True, name=name, field=field)


def profile(wanted: Choice, default: str, loaded: frozenset[str] | None) -> str:
    """The profile for a choice, "": none. loaded: the kernel's; None: it has no AppArmor.

    Raises WrongState if what is asked for can't be given.
    """
    if not wanted.wanted:
        return ""
    name = wanted.name or default
    if loaded is not None and name in loaded:
        return name
    if not wanted.field:
        return ""
    if loaded is None:
        text = "this node's kernel has no AppArmor, or it is switched off: ask for Unconfined"
    elif wanted.name:
        text = "is not loaded on this node: load it with apparmor_parser"
    else:
        text = "RuntimeDefault, is not loaded on this node: `podwright doctor` says why"
    raise WrongState(f"{wanted.field}: the AppArmor profile {name!r}: {text}")
