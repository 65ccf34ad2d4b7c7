"""Why there is no network, in words: which directory was looked at and what was found there."""

from __future__ import annotations

from pathlib import Path

from network.config import NetworkSettings
from network.result import NetworkStatus

REASON = "NetworkPluginNotReady"

# People and tools look for these words.
_ERROR = "Network plugin returns error: "
_NOT_INITIALIZED = "cni plugin not initialized"
_CONFIGURATIONS = (".conf", ".conflist", ".json")
_SHOWN = 5

READY = NetworkStatus(ready=True)


def failed(text: str) -> NetworkStatus:
    """The built-in network is wanted and can't be had."""
    return NetworkStatus(ready=False, reason=REASON, message=_ERROR + text)


def absent(settings: NetworkSettings) -> NetworkStatus:
    """The built-in network is off. Reads the two CNI directories."""
    return failed(
        f"{_NOT_INITIALIZED}: the built-in network is off ([network] enabled = false);"
        f" {_configurations(settings.cni_conf_dir)}; {_plugins(settings.cni_bin_dir)}"
    )


def _configurations(directory: Path) -> str:
    names, trouble = _names(directory)
    if trouble:
        return trouble
    found = [name for name in names if name.endswith(_CONFIGURATIONS)]
    if not found:
        return f"{directory} holds no {', '.join('*' + suffix for suffix in _CONFIGURATIONS)}"
    return f"{directory} holds {_listed(found)}, but this version of podwright runs no CNI plugins"


def _plugins(directory: Path) -> str:
    names, trouble = _names(directory)
    return trouble or f"{directory} holds {_listed(names)}"


def _names(directory: Path) -> tuple[list[str], str]:
    """What is in a directory, and what is wrong with it ("": nothing)."""
    try:
        return sorted(path.name for path in directory.iterdir()), ""
    except FileNotFoundError:
        return [], f"{directory} does not exist"
    except OSError as error:
        return [], f"{directory} can't be read: {error.strerror}"


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
