"""The composition root: builds the parts, serves, and takes them down in reverse order.

    lock -> directories -> boot -> store -> images -> runtime (spawner) -> network
         -> recover: what is true -> listen -> READY=1

Ending the daemon, in whatever way, never ends a pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import fcntl
import gc
import logging
import os
import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cri import VERSION, node_handlers, recover, service, writable
from cri.config import Config, ConfigError, load, override
from cri.endpoint import Endpoint
from cri.listen import listen
from cri.paths import Paths
from cri.rpc import selinux
from cri.rpc.services import Services
from cri.specgen.handler import BaseRefused
from cri.store.store import Store
from cri.streaming.server import StreamServer, StreamSettings
from cri.streaming.tls import CantServe, TlsFiles
from cri.systemd import Notifier, passed_sockets
from cri.watchdog import watched
from image.settings import ImageSettings, RegistrySettings
from image.store import ImageStore
from network.config import NetworkSettings
from network.pod_network import PodNetwork
from runtime.apparmor import profiles
from runtime.init import skeleton
from runtime.lifecycle import ContainerExit, Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from cri.rpc.nri_host import NriHost
    from cri.specgen.handler import RuntimeHandler

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
GRACE_SECONDS = 5.0  # for RPCs under way when we are asked to stop; then they are undone
UNDO_SECONDS = 40.0  # at most
RELOADED = frozenset({"log_level"})  # keys that SIGHUP applies; the others want a restart


class CantStart(Exception):
    """The daemon can't start; the text says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the command line says: a configuration file, and keys that it overrides."""

    config_file: Path | None = None
    overrides: tuple[tuple[str, str], ...] = ()

    def load(self) -> Config:
        """Read the configuration anew. Raises ConfigError."""
        return override(load(self.config_file), **dict(self.overrides))


async def serve(options: Options) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises ConfigError, CantStart, CantListen."""
    began = time.monotonic()
    notifier = Notifier(os.environ)
    passed = passed_sockets(os.environ)
    config = options.load()
    _set_up_logging(config.log_level)
    stop = _signals(options, config, notifier)
    async with (
        _services(config) as services,
        _plugins(services),
        contextlib.AsyncExitStack() as stack,
    ):
        server = service.server(services)
        listening = await listen(server, config.endpoint, services.paths.state, passed)
        await stack.enter_async_context(listening)
        await server.start()
        stack.push_async_callback(_finish, services)
        stack.push_async_callback(server.stop, GRACE_SECONDS)
        stack.callback(services.events.close)  # streams without an end get one
        gc.collect()
        gc.freeze()  # what lives now lives for ever: later collections needn't look at it
        pods = len(services.store.sandboxes)
        text = f"serving {config.endpoint}, {pods} sandboxes"
        log.info("podwright %s: %s, after %.2f s", VERSION, text, time.monotonic() - began)
        notifier.ready(text)
        async with watched(notifier, config.endpoint), writable.refreshing(services):
            await stop.wait()
        log.info("stopping; pods run on")
        notifier.stopping()


@contextlib.asynccontextmanager
async def _services(config: Config) -> AsyncIterator[Services]:
    """The parts of the daemon, connected, and in agreement with what is true on this node."""
    if os.geteuid() != 0:
        raise CantStart("podwright serve must run as root: it makes namespaces and mounts")
    paths = Paths(Path(config.root), Path(config.state))
    async with contextlib.AsyncExitStack() as stack:
        for name, directory in (("root", paths.root), ("state", paths.state)):
            _make(name, directory)
        _make("netns_dir", Path(config.netns_dir), mode=0o755)
        for path in paths.locks:
            stack.enter_context(_locked(path))
        rebooted = is_new_boot(paths.boot_id)
        store = Store.open(paths.database)
        stack.callback(store.close)
        images = await ImageStore.open(paths.root, _image_settings(config))
        stack.push_async_callback(images.close)

        def on_exit(exit_: ContainerExit) -> None:
            recover.on_exit(services, exit_)

        def on_lost(sandbox_id: str) -> None:
            recover.on_lost(services, sandbox_id)

        handlers = await _handlers(config)
        runtime = Runtime(
            paths.state,
            Path(config.netns_dir),
            on_exit=on_exit,
            on_lost=on_lost,
            cgroup_driver=config.cgroup.driver,
            handlers=node_handlers.runtimes(handlers),
        )
        network = PodNetwork(_network_settings(config))
        streams = StreamServer(_stream_settings(config))
        parts = (config, paths, store, images, network, runtime, streams, handlers)
        services = Services(*parts, await _selinux(config))
        _raise_descriptor_limit()
        await _load_apparmor_profile(config.containers.apparmor_profile)
        await _start(runtime, config, paths, stack)
        await network.start([sandbox.id for sandbox in store.sandboxes])
        stack.push_async_callback(network.close)
        await recover.recover(services, rebooted=rebooted)
        await images.collect([container.id for container in store.containers])
        remember_boot(paths.boot_id)
        try:
            await streams.start()
        except CantServe as error:
            raise CantStart(str(error)) from error
        stack.push_async_callback(streams.close)
        yield services


@contextlib.asynccontextmanager
async def _plugins(services: Services) -> AsyncIterator[None]:
    """NRI's plugins, who must know of every pod that is asked for from now on."""

    def host() -> NriHost:
        from cri.rpc.nri_host import NriHost  # few nodes have plugins

        return NriHost(services)

    try:
        await services.nri.start(host)
        yield
    finally:
        await services.nri.close()


async def _load_apparmor_profile(name: str) -> None:
    """Ours is loaded anew at each start, as it may have changed; others are the node's business."""
    if not profiles.enabled() or name != profiles.DEFAULT:
        return
    try:
        await asyncio.to_thread(profiles.load_default)
    except profiles.ProfileNotLoaded as error:
        log.warning("containers will not be confined by AppArmor: %s", error)


async def _selinux(config: Config) -> selinux.Selinux:
    """Looked at even where it is not wanted: there may be pods from before that have labels."""
    found = await asyncio.to_thread(selinux.find)
    if config.containers.selinux != "off":
        if found.refusal:
            log.warning("pods will have no SELinux labels: %s", found.refusal)
        await asyncio.to_thread(selinux.label_images, found, Path(config.root))
    return found


async def _start(
    runtime: Runtime, config: Config, paths: Paths, stack: contextlib.AsyncExitStack
) -> None:
    """What the node can is tried with directories that every container gets."""
    await runtime.start(criu=config.runtime.criu)
    stack.push_async_callback(runtime.close)
    await asyncio.to_thread(skeleton.make, os.fspath(paths.skeleton))
    await runtime.probe((f"{paths.skeleton}/etc", f"{paths.skeleton}/proc"))


def _raise_descriptor_limit() -> None:
    """Statistics keep some files of each container open. Of what we start, the spawner gets back
    what we were given, since containers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _handlers(config: Config) -> Mapping[str, RuntimeHandler]:
    try:
        return await asyncio.to_thread(node_handlers.find, config)
    except BaseRefused as error:
        raise CantStart(f"[runtime.handlers]: {error}: mend the file, or take it out") from error


def _make(name: str, directory: Path, *, mode: int = 0o700) -> None:
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        option = f"--{name.replace('_', '-')}"
        raise CantStart(
            f"{name} = {str(directory)!r}: {error.strerror}: it has to be a directory, or a place "
            f"where one can be made; set `{name}`, or {option}"
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file. Raises CantStart, naming the process that holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise CantStart(
                f"{path.parent}: another podwright (pid {holder}) works in this directory: "
                "stop it, or give this one its own --root and --state"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def is_new_boot(path: Path) -> bool:
    """Whether the node was booted since a daemon last wrote this file (or never did)."""
    try:
        return path.read_text() != BOOT_ID.read_text()
    except FileNotFoundError:
        return True


def remember_boot(path: Path) -> None:
    """The state directory describes this boot from now on."""
    path.write_text(BOOT_ID.read_text())


def _image_settings(config: Config) -> ImageSettings:
    images = config.images
    return ImageSettings(
        registries=RegistrySettings(
            hosts_dir=images.hosts_dir, insecure_hosts=images.insecure_hosts
        ),
        parallel_layers=images.parallel_layers,
        keep_blobs=images.keep_blobs,
        pinned=images.pinned,
        progress_timeout=images.progress_timeout,
    )


def _stream_settings(config: Config) -> StreamSettings:
    streaming = config.streaming
    tls = None
    if streaming.tls_cert_file:
        authority = Path(streaming.client_ca_file) if streaming.client_ca_file else None
        files = Path(streaming.tls_cert_file), Path(streaming.tls_key_file)
        tls = TlsFiles(*files, authority)
    return StreamSettings(
        endpoint=Endpoint.parse(streaming.address),
        idle_timeout=streaming.idle_timeout,
        creation_timeout=streaming.creation_timeout,
        tls=tls,
    )


def _network_settings(config: Config) -> NetworkSettings:
    network = config.network
    return NetworkSettings(
        enabled=network.enabled,
        state_dir=Path(config.state),
        bridge=network.bridge,
        subnets=network.subnets,
        mtu=network.mtu,
        masquerade=network.masquerade,
        cni_conf_dir=Path(network.cni_conf_dir),
        cni_bin_dir=Path(network.cni_bin_dir),
    )


def _set_up_logging(level: str) -> None:
    """Lines on stderr; under systemd without the time, which the journal has, but with a level."""
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _JournalFormatter(logging.Formatter):
    """Every line begins with its syslog priority: sd-daemon(3)."""

    PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for level, p in self.PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _signals(options: Options, config: Config, notifier: Notifier) -> asyncio.Event:
    """SIGTERM, SIGINT: the event that is answered is set. SIGHUP: read the configuration again.
    SIGUSR1: say on stderr what every thread and every task is doing."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, options, config, notifier)
    loop.add_signal_handler(signal.SIGUSR1, _dump_tasks)
    # in C, and so even when the loop hangs; then the handler above, when the loop turns again
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    return stop


def _reload(options: Options, old: Config, notifier: Notifier) -> None:
    notifier.reloading()
    try:
        new = options.load()
    except ConfigError as error:
        log.error("configuration not reloaded, the old one stays: %s", error)
        notifier.ready("configuration not reloaded")
        return
    logging.getLogger().setLevel(new.log_level.upper())
    changed = {
        item.name
        for item in dataclasses.fields(Config)
        if getattr(new, item.name) != getattr(old, item.name)
    }
    late = ", ".join(sorted(changed - RELOADED)) or "nothing"
    log.warning(
        "configuration reloaded: log_level is %s; %s waits for a restart", new.log_level, late
    )
    notifier.ready("configuration reloaded")


def _dump_tasks() -> None:
    """One line a task. Not Task.print_stack: it stumbles over frames that have no source."""
    for task in asyncio.all_tasks():
        frames = (frame.f_code for frame in task.get_stack(limit=8))
        at = " > ".join(f"{code.co_filename}:{code.co_name}" for code in frames)
        log.warning("task %s: %s", task.get_name(), at)


async def _finish(services: Services) -> None:
    """Let what the end of the server has cancelled undo itself, before its tools are taken away."""
    busy = {task for task in services.busy if not task.done()} | services.flights.tasks()
    if busy:
        await asyncio.wait(busy, timeout=UNDO_SECONDS)
