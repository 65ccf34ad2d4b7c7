"""podwright serve: the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click
from click.core import ParameterSource

from cri.config import ConfigError

# gRPC reads these when it is loaded. Its fork support is for processes that fork and then go on
# using gRPC, which the daemon never does; its older event loop answers sooner (cri/README.md).
GRPC_ENVIRONMENT = {
    "GRPC_VERBOSITY": "ERROR",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
}


@click.command(name="serve")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file; conf.d/*.toml beside it are read too. "
    "[default: /etc/podwright/podwright.toml, if it is there]",
)
@click.option("--root", help="Instead of the configuration's `root`.")
@click.option("--state", help="Instead of the configuration's `state`.")
@click.option("--address", help="Instead of the configuration's `address`.")
@click.option("--netns-dir", help="Instead of the configuration's `netns_dir`.")
@click.option("--log-level", help="Instead of the configuration's `log_level`.")
def command(config_file: Path | None, **overrides: str | None) -> None:
    """Run the daemon in the foreground, until SIGTERM; pods run on when it ends.

    SIGHUP reads the configuration again, SIGUSR1 shows what the daemon is doing.
    """
    for name, value in GRPC_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from cri import daemon  # now, not above: gRPC is slow to load, and reads the environment
    from cri.errors import CriFault
    from cri.listen import CantListen
    from image.errors import ImageFault
    from runtime.errors import RuntimeFault

    root = click.get_current_context().find_root()
    if root.get_parameter_source("address") is ParameterSource.COMMANDLINE:
        overrides["address"] = overrides["address"] or root.params["address"]  # said too early
    given = tuple((name, value) for name, value in overrides.items() if value is not None)
    try:
        asyncio.run(daemon.serve(daemon.Options(config_file, given)))
    except (ConfigError, daemon.CantStart, CantListen, CriFault, ImageFault, RuntimeFault) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:  # a disk that is full or read-only, in most cases
        logging.getLogger(__name__).debug("the daemon ends", exc_info=error)
        where = f"{error.filename}: " if error.filename else ""
        text = (
            f"{where}{error.strerror or error}: have `root` and `state` room, and may be written?"
        )
        raise click.ClickException(text) from error
