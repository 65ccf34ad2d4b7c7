"""The runtimes of this node, made ready at the daemon's start: base specs read, programs asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from cri.config import Config
from cri.handlers import OCI, HandlerConfig
from cri.specgen.handler import Base, RuntimeHandler, load_base
from runtime.handlers import features
from runtime.handlers.face import Handler
from runtime.handlers.oci_cli import OciCli

log = logging.getLogger(__name__)


def find(config: Config) -> Mapping[str, RuntimeHandler]:
    """All of them, by name. Blocks. Raises BaseRefused, OSError for a base spec.

    A program that is missing is only logged: its pods fail, not the node.
    """
    return {name: _handler(name, one) for name, one in config.handlers.items()}


def runtimes(handlers: Mapping[str, RuntimeHandler]) -> Mapping[str, Handler]:
    """Those that are not the embedded runtime, for `Runtime`."""
    return {
        name: OciCli(
            name=name,
            binary=handler.config.path,
            arguments=handler.config.arguments,
            root=Path(handler.config.root) if handler.config.root else None,
            own_cgroup=handler.config.own_cgroup,
            hidden=handler.config.hidden_mounts,
        )
        for name, handler in handlers.items()
        if handler.config.type == OCI
    }


def _handler(name: str, config: HandlerConfig) -> RuntimeHandler:
    base = load_base(Path(config.base_runtime_spec)) if config.base_runtime_spec else Base()
    recursive = True
    if config.type == OCI:
        told = features.ask(config.path)
        recursive = told.recursive_read_only
        if told.problem:
            log.warning("runtime handler %s: %s", name, told.problem)
    return RuntimeHandler(name, config, base, recursive)
