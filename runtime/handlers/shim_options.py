"""What a shim can be told about the runtime that it calls: a table of names as a message."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from runtime.monitor.shim.task_pb2 import RuncOptions, RuntimeOptions

_RUNC = re.compile(r"containerd-shim-runc-v\d+")
_WORD = re.compile(r"(?<!^)(?=[A-Z])")

Options = Mapping[str, str | bool | int]


def made_for_runc(binary: str) -> bool:
    """Whether a shim, by its name, is the one for OCI command lines like runc's."""
    return bool(_RUNC.fullmatch(posixpath.basename(binary)))


def message(binary: str, options: Options) -> tuple[str, bytes]:
    """The options' type and bytes; ("", b"") for none. Raises ValueError for what is unknown.

    runc's shim has options of its own; the others take a type_url and a file that they read.
    """
    is_runc = made_for_runc(binary)
    made = RuncOptions() if is_runc else RuntimeOptions()
    for name, value in options.items():
        key = _WORD.sub("_", name).lower()
        if key not in made.DESCRIPTOR.fields_by_name or name != _camel(key):
            known = ", ".join(_camel(item) for item in made.DESCRIPTOR.fields_by_name)
            raise ValueError(f"{name}: this shim's options are {known}")
        text = key == "config_body" and isinstance(value, str)
        try:
            setattr(made, key, str(value).encode() if text else value)
        except TypeError:
            raise ValueError(f"{name} = {value!r}: of another type") from None
    kind = "containerd.runc.v1.Options" if is_runc else "runtimeoptions.v1.Options"
    return (kind, made.SerializeToString()) if options else ("", b"")


def _camel(key: str) -> str:
    return "".join(word.capitalize() for word in key.split("_"))
