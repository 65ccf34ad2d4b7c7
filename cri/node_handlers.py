"""The runtimes of this node, made ready at the daemon's start: base specs read, programs asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from cri.config import Config
from cri.handlers import OCI, SHIM, HandlerConfig
from cri.specgen.handler import Base, RuntimeHandler, load_base
from runtime.handlers import features
from runtime.handlers.face import Handler
from runtime.handlers.oci_cli import OciCli
from runtime.handlers.shim_v2 import ShimV2

log = logging.getLogger(__name__)


def find(config: Config) -> Mapping[str, RuntimeHandler]:
    """All of them, by name. Blocks. Raises BaseRefused.

    A program that is missing is only logged: its pods fail, not the node.
    """
    return {name: _handler(name, one) for name, one in config.handlers.items()}


def runtimes(handlers: Mapping[str, RuntimeHandler]) -> Mapping[str, Handler]:
    """Those that are not the embedded runtime, for `Runtime`."""
    return {name: _runtime(name, one) for name, one in handlers.items() if one.config.program}


def _runtime(name: str, handler: RuntimeHandler) -> Handler:
    config = handler.config
    if config.type == SHIM:
        return ShimV2(
            name=name,
            binary=config.path,
            options=config.options,
            sandbox=config.sandbox,
            hidden=config.hidden_mounts,
        )
    return OciCli(
        name=name,
        binary=config.path,
        arguments=config.arguments,
        root=Path(config.root) if config.root else None,
        own_cgroup=config.own_cgroup,
        hidden=config.hidden_mounts,
    )


def _handler(name: str, config: HandlerConfig) -> RuntimeHandler:
    base = load_base(Path(config.base_runtime_spec)) if config.base_runtime_spec else Base()
    recursive = True
    if config.program:
        told = _features(config)
        recursive = told.recursive_read_only
        if told.problem:
            log.warning("runtime handler %s: %s", name, told.problem)
    return RuntimeHandler(name, config, base, recursive)


def _features(config: HandlerConfig) -> features.Features:
    return (
        features.ask(config.path)
        if config.type == OCI
        else features.of_shim(config.path, config.options)
    )
