"""podwright run: a pod from its manifest, as kubelet would start it once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from cri.api import api_pb2 as api
from cri.cli import logfile
from cri.cli.client import CallFailed, Client, connect
from cri.cli.logs import while_running, write
from cri.cli.pod import manifest, sandbox
from cri.cli.pod.start import Running, Start, until_exited
from cri.cli.rm import remove_pod

DIRECTORY = Path("/var/lib/podwright-pods")


@click.command(name="run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--wait", "-w", is_flag=True, help="Until all containers have ended.")
@click.option("--logs", "-l", is_flag=True, help="Show what they write; implies --wait.")
@click.option("--rm", "remove", is_flag=True, help="Remove the pod at the end; implies --wait.")
@click.option("--quiet", "-q", is_flag=True, help="Only the pod's id.")
@click.option(
    "--runtime-handler",
    metavar="NAME",
    default="",
    help="Who runs the containers, instead of the manifest's runtimeClassName.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DIRECTORY,
    show_default=True,
    envvar="PODWRIGHT_PODS",
    help="Where the pods' volumes and logs are kept.",
)
@click.pass_context
def command(
    context: click.Context, /, file: Path, directory: Path, runtime_handler: str, **flags: bool
) -> None:
    """Run the pod of a Kubernetes manifest (kind: Pod, YAML or JSON).

    Unknown fields are errors; those which Kubernetes knows and `run` does nothing with are listed.
    With --wait the exit code is that of the first container that failed.
    """
    pod = manifest.read(file)
    if problems := sandbox.problems(pod):
        raise manifest.ManifestError(str(file), problems)
    if runtime_handler:
        pod.inner("spec").override("runtimeClassName", runtime_handler)
    with connect() as client, _undone_by(signal.SIGTERM, signal.SIGHUP):
        running = Start(
            client, pod, source=str(file), base=directory.absolute(), quiet=flags["quiet"]
        ).pod()
        code = 0
        try:
            if flags["wait"] or flags["logs"] or flags["remove"]:
                code = wait_for(client, running, logs=flags["logs"])
        finally:
            if flags["remove"]:
                remove_pod(client, running.sandbox_id, running.config.annotations)
    context.exit(code)


@contextlib.contextmanager
def _undone_by(*signals: signal.Signals) -> Iterator[None]:
    """Whoever is ended by one of them undoes what was begun, as after Ctrl-C."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heeded = [
        number for number in signals if signal.getsignal(number) is not signal.SIG_IGN
    ]  # nohup
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(client: Client, running: Running, *, logs: bool) -> int:
    """Waits for all containers, showing their logs if asked; the first exit code that is not 0."""
    threads = [
        threading.Thread(target=_follow, args=(client, name, container_id), daemon=True)
        for name, container_id in running.containers.items()
        if logs
    ]
    for thread in threads:
        thread.start()
    codes = [until_exited(client, item).exit_code for item in running.containers.values()]
    for thread in threads:
        thread.join()
    return next((code for code in codes if code), 0)


def _follow(client: Client, name: str, container_id: str) -> None:
    request = api.ContainerStatusRequest(container_id=container_id)
    path = Path(
        client.call("ContainerStatus", request, api.ContainerStatusResponse).status.log_path
    )
    with contextlib.suppress(CallFailed, FileNotFoundError):
        for line in logfile.read(path, more=while_running(client, container_id)):
            write(line, prefix=f"{name} | ")
