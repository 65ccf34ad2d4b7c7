"""`make run`: a pod's whole life on a node of its own, by the commands that a person would type.

The node is a network and a mount namespace with a scratch root, so nothing of it meets this
machine's own runtime, network or files; at the end nothing of it is left.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from e2e import images
from e2e.kubelet import until
from e2e.node import REGISTRY, Node, started

MANIFEST = "e2e/pods/hello.yaml"
IMAGE = f"{REGISTRY}/library/busybox:1.35"
HOST_PORT = 18080
LINES_OF_THE_CLIENT = 3


class Demo:
    """Runs commands on the node and shows them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._environment = {
            **os.environ,
            "PODWRIGHT_ADDRESS": node.address,
            "PODWRIGHT_PODS": str(node.directory / "pods"),
        }

    def words(self, *words: str) -> list[str]:
        podwright = str(Path(sys.executable).with_name("podwright"))
        return self._node.command(podwright, *words)

    def show(self, *words: str) -> None:
        """One command, with what it says. It has to succeed."""
        click.secho(f"\n$ podwright {shlex.join(words)}", bold=True)
        sys.stdout.flush()
        command = self.words(*words)
        subprocess.run(command, check=True, env=self._environment)

    def ask(self, *words: str) -> str:
        """One command that is not shown: its output."""
        command = self.words(*words)
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=self._environment
        )
        return done.stdout + done.stderr

    def fetch(self) -> None:
        """The server's page, through the port of the node that the manifest asks for."""
        click.secho(f"\n$ curl http://127.0.0.1:{HOST_PORT}/", bold=True)

        def get() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", HOST_PORT, timeout=10)
            connection.request("GET", "/")
            return connection.getresponse().read().decode()

        click.echo(self._node.inside(get), nl=False)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Says what is being done, and how long it took."""
    begun = time.monotonic()
    click.echo(f"{text} … ", nl=False)
    yield
    click.echo(f"{time.monotonic() - begun:.1f} s")


def life(node: Node) -> list[str]:
    """Everything from the image to the leak check; what was left behind."""
    demo = Demo(node)
    with step(f"a busybox image from {images.BUSYBOX}, pushed to the registry at {REGISTRY}"):
        image = images.Image([images.busybox()], {"Cmd": ["sh"]})
        node.inside(lambda: image.push(images.Registry(REGISTRY), "library/busybox", "1.35"))
    before = node.inventory()
    demo.show("images", "pull", IMAGE)
    demo.show("run", MANIFEST)
    until(
        lambda: len(demo.ask("logs", "hello/client").splitlines()) >= LINES_OF_THE_CLIENT,
        "the two containers have met",
    )
    demo.show("ps")
    demo.show("logs", "hello/server")
    demo.show("logs", "--timestamps", "hello/client")
    demo.fetch()
    script = "echo $(hostname) is $(hostname -i); cat /dev/shm/letter"
    demo.show("exec", "hello/client", "--", "sh", "-c", script)
    demo.show("trace", "hello")
    demo.show("stop", "hello")
    demo.show("rm", "hello")
    with step("\nleak check: mounts, interfaces, nftables, cgroups, processes, namespaces, files"):
        return list(node.leaks(before))


def main() -> int:
    """0 if all went well and nothing is left."""
    if os.geteuid() != 0:
        click.echo("make run makes namespaces, mounts and cgroups: run it as root", err=True)
        return 1
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        with step("a node of its own, its registry and its daemon"):
            node = stack.enter_context(started())
        try:
            left = life(node)
        except (subprocess.CalledProcessError, AssertionError) as error:
            click.secho(f"\n{error}\nthe daemon's last words:", fg="red", err=True)
            click.echo(node.daemon.tail() if node.daemon else "", err=True)
            return 1
    for line in left:
        click.secho(f"left behind: {line}", fg="red")
    if not left:
        click.secho("nothing is left", fg="green")
    click.echo(f"\nall of it in {time.monotonic() - begun:.1f} s")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
