"""`python -m e2e.load`: options, the run, the table."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console


def main() -> int:
    """0; 1 if something failed or was left behind."""
    if os.geteuid() != 0:
        sys.exit("e2e.load: must be root: it starts a node of its own")
    # a third of the client's own time a call, as in the bench
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    from e2e.bench.report import machine
    from e2e.load import report
    from e2e.load.run import Settings, run

    usual = Settings()
    parser = argparse.ArgumentParser(
        "e2e.load", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=usual.pods, help="pods that stand; 0: none")
    parser.add_argument(
        "--seconds", type=float, default=usual.seconds, help="how long kubelet's habits are kept"
    )
    parser.add_argument("--lives", type=int, default=usual.lives, help="whole lives; 0: none")
    parser.add_argument("--parallel", type=int, default=usual.parallel, help="lives at a time")
    parser.add_argument(
        "--probes", type=float, default=usual.probes_per_second, help="exec probes a second"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    asked = parser.parse_args()
    for name in ("seconds", "parallel", "probes"):
        if getattr(asked, name) <= 0:
            parser.error(f"--{name} must be above 0")
    settings = Settings(asked.pods, asked.seconds, asked.lives, asked.parallel, asked.probes)
    document = {"machine": machine(), **run(settings)}
    if asked.json is not None:
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    Console(width=None if os.isatty(1) else 120).print(report.table(document))
    return int(bool(document["left"]))


if __name__ == "__main__":
    sys.exit(main())
