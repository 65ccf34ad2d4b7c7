"""podwright doctor: is this node fit for pods, and if not, what is to be done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import click

from cri.cli.checks import daemon, extensions, kernel, net, runtimes, serving, storage
from cri.cli.checks.finding import Check, Finding, Level, Place
from cri.config import Config, ConfigError, load

CHECKS = (
    *(*kernel.CHECKS, *storage.CHECKS, *net.CHECKS, *runtimes.CHECKS),
    *(*extensions.CHECKS, *serving.CHECKS, *daemon.CHECKS),
)
MARKS = {
    Level.OK: ("✓", "green"),
    Level.NOTE: ("·", "blue"),
    Level.WARN: ("!", "yellow"),
    Level.FAIL: ("✗", "red"),
}


@click.command(name="doctor")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The daemon's file. [default: /etc/podwright/podwright.toml, if it is there]",
)
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def command(context: click.Context, file: Path | None, output: str) -> None:
    """Check this node and say what to do about each finding.

    The exit code is 1 if pods can't run here, else 0.
    """
    try:
        config, findings = load(file), []
    except ConfigError as error:
        config, findings = Config(), [Finding(Level.FAIL, "configuration", str(error), "mend it")]
    address = str(context.find_root().params.get("address") or config.endpoint)
    findings += examine(Place(config, address))
    if output == "json":
        told = [{**dataclasses.asdict(f), "level": f.level.value} for f in findings]
        click.echo(json.dumps(told, indent=2))
    else:
        _tell(findings)
    context.exit(1 if any(finding.level is Level.FAIL for finding in findings) else 0)


def examine(place: Place, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """All findings. A check that itself breaks is a finding, too: doctor never ends half way."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(place)
        except OSError as error:
            name = check.__name__.replace("_", " ")
            said = f"can't be looked at: {error}"
            findings.append(Finding(Level.WARN, name, said, "run doctor as root"))
    return findings


def _tell(findings: list[Finding]) -> None:
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        mark, colour = MARKS[finding.level]
        click.echo(f"{click.style(mark, fg=colour)} {finding.about:{width}}  {finding.text}")
        if finding.remedy:
            click.echo(f"  {'':{width}}  {click.style('→ ' + finding.remedy, dim=True)}")
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    click.echo(
        f"\n{counts[Level.OK]} good, {counts[Level.NOTE]} to know, {counts[Level.WARN]} to mend,"
        f" {counts[Level.FAIL]} in the way of pods"
    )
