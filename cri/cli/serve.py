"""podwright serve: the daemon."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from cri.config import ConfigError

# gRPC reads these when it is loaded. The daemon starts programs, but never forks to go on as two.
# Its older event loop answers a request in 0.5 ms where the newer one takes 0.7 (gRPC 1.85).
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

    given = tuple((name, value) for name, value in overrides.items() if value is not None)
    try:
        asyncio.run(daemon.serve(daemon.Options(config_file, given)))
    except OSError as error:
        if error.filename is None:
            raise
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    except (ConfigError, daemon.CantStart, CantListen, CriFault, ImageFault, RuntimeFault) as error:
        raise click.ClickException(str(error)) from error
