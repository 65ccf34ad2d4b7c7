"""`python -m e2e.bench`: options, and the way onto the stage."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.bench import stage

if TYPE_CHECKING:
    from e2e.bench.session import Settings


def main() -> int:
    if sys.argv[1:2] == ["--stage"]:
        directory, arguments = Path(sys.argv[2]), sys.argv[3:]
        return stage.run_as_init(lambda: _perform(arguments, directory))
    _settings(sys.argv[1:])  # a typo is said here, before anything is mounted
    return stage.enter(sys.argv[1:])


def _perform(arguments: list[str], directory: Path) -> int:
    # A third of the client's own time a call: gRPC answers in the thread that asked. No daemon of
    # ours inherits it.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    from e2e.bench import session

    return session.run(_settings(arguments), directory)


def _settings(arguments: list[str]) -> "Settings":
    from e2e.bench import runtimes, session  # not above: gRPC must not be loaded before pid 1 forks

    measures = {measure.name: measure for measure in session.MEASURES}
    parser = argparse.ArgumentParser(
        "e2e.bench", description="Measure podwright beside containerd with runc and crun."
    )
    parser.add_argument(
        "--only", default=",".join(measures), metavar="MEASURE,…", help="a subset of: %(default)s"
    )
    parser.add_argument(
        "--runtimes",
        default=",".join(runtimes.NAMES),
        metavar="NAME,…",
        help="a subset of: %(default)s",
    )
    parser.add_argument(
        "--rounds", type=int, help="how often each measure is taken; by default its own number"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args(arguments)
    wanted, names = options.only.split(","), tuple(options.runtimes.split(","))
    if unknown := [name for name in wanted if name not in measures]:
        parser.error(f"no such measure: {', '.join(unknown)}; there are {', '.join(measures)}")
    if unknown := [name for name in names if name not in runtimes.NAMES]:
        parser.error(
            f"no such runtime: {', '.join(unknown)}; there are {', '.join(runtimes.NAMES)}"
        )
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    return session.Settings(
        tuple(measures[name] for name in wanted), names, options.rounds, options.json
    )


if __name__ == "__main__":
    sys.exit(main())
