"""What plugins want of a container that is being created, merged plugin after plugin. Pure.

Each plugin sees the container as those before it want it to be, and may set what none of them has
set. The result holds an entry once: set, or with a `-` before its key, to be taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from cri.nri import resources
from cri.nri.api import nri_pb2 as nri
from cri.nri.owners import REMOVAL, Owners, removed
from cri.nri.updates import Updates

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

HOOKS = (
    *("prestart", "create_runtime", "create_container"),
    *("start_container", "poststart", "poststop"),
)
_WHOLE = {  # set as a whole, by one plugin; where the container's message shows it
    "oom_score_adj": (nri.OomScoreAdj, True),
    "io_priority": (nri.IoPriority, True),
    "seccomp_policy": (nri.SeccompPolicy, True),
    "scheduler": (nri.LinuxSched, True),
    "memory_policy": (nri.MemoryPolicy, False),
}
RDT = {
    "clos_id": nri.RdtClosID,
    "schemata": nri.RdtSchemata,
    "enable_monitoring": nri.RdtEnableMonitoring,
}
M = TypeVar("M", bound=Message)


class Adjustments:
    """Of one container. `request` is what the next plugin is asked; it changes with `add`."""

    def __init__(self, request: nri.CreateContainerRequest) -> None:
        self.request = request
        self.merged = nri.ContainerAdjustment()
        self.owners = Owners()
        self.updates = Updates(self.owners, creating=request.container.id)
        self.evictions: list[tuple[str, nri.ContainerEviction]] = []
        self._plugin = ""

    def add(self, plugin: str, response: nri.CreateContainerResponse) -> None:
        """Raises PluginsDisagree, AdjustmentImpossible."""
        self._plugin = plugin
        wanted, view = response.adjust, self.request.container
        self._map(nri.Annotations, wanted.annotations, self.merged.annotations, view.annotations)
        self._list(nri.Mounts, "destination", wanted.mounts, self.merged.mounts, view.mounts)
        self._env(wanted.env)
        self._args(wanted.args)
        self._hooks(wanted.hooks)
        self._list(nri.Rlimits, "type", wanted.rlimits, self.merged.rlimits, view.rlimits)
        self._list(
            nri.CdiDevices, "name", wanted.CDI_devices, self.merged.CDI_devices, view.CDI_devices
        )
        self._linux(wanted.linux)
        self.updates.add(plugin, response.update)
        self.evictions += ((plugin, one) for one in response.evict)

    def _linux(self, wanted: nri.LinuxContainerAdjustment) -> None:
        merged, view = self.merged.linux, self.request.container.linux
        self._list(nri.Devices, "path", wanted.devices, merged.devices, view.devices)
        self._list(nri.Namespace, "type", wanted.namespaces, merged.namespaces, view.namespaces)
        self._map(nri.Sysctl, wanted.sysctl, merged.sysctl, view.sysctl)
        self._net_devices(wanted.net_devices)
        resources.claim_all(wanted.resources, self._claim)
        if wanted.resources.devices:
            self.owners.add(self.request.container.id, nri.Devices, self._plugin)
        resources.merge(merged.resources, wanted.resources)
        resources.merge(view.resources, wanted.resources)
        if wanted.cgroups_path:
            self._claim(nri.CgroupsPath)
            merged.cgroups_path = view.cgroups_path = wanted.cgroups_path
        for name, (field, shown) in _WHOLE.items():
            if wanted.HasField(name):
                self._claim(field)
                getattr(merged, name).CopyFrom(getattr(wanted, name))
                if shown:
                    getattr(view, name).CopyFrom(getattr(wanted, name))
        self._rdt(wanted.rdt)

    def _claim(self, field: nri.Field, entry: str = "") -> None:
        self.owners.claim(self.request.container.id, field, self._plugin, entry)

    def _clear(self, field: nri.Field, entry: str = "") -> None:
        self.owners.clear(self.request.container.id, field, self._plugin, entry)

    def _map(
        self,
        field: nri.Field,
        wanted: MutableMapping[str, str],
        merged: MutableMapping[str, str],
        view: MutableMapping[str, str],
    ) -> None:
        for key in filter(None, map(removed, wanted)):
            self._clear(field, key)
            merged.pop(key, None)
            view.pop(key, None)
            merged[REMOVAL + key] = ""
        for key, value in wanted.items():
            if not removed(key):
                self._claim(field, key)
                merged.pop(REMOVAL + key, None)
                merged[key] = view[key] = value

    def _net_devices(self, wanted: MutableMapping[str, nri.LinuxNetDevice]) -> None:
        merged, view = self.merged.linux.net_devices, self.request.container.linux.net_devices
        for key, device in sorted(wanted.items()):  # "-" sorts before all names
            name = removed(key)
            if name:
                self._clear(nri.LinuxNetDevices, name)
                merged.pop(name, None)
                view.pop(name, None)
            else:
                self._claim(nri.LinuxNetDevices, key)
                merged.pop(REMOVAL + key, None)
                view[key].CopyFrom(device)
            merged[key].CopyFrom(device)

    def _list(
        self,
        field: nri.Field,
        key: str,
        wanted: Iterable[M],
        merged: RepeatedCompositeFieldContainer[M],
        view: RepeatedCompositeFieldContainer[M],
    ) -> None:
        """Entries that are known by one of their fields."""
        asked = list(wanted)
        names = [getattr(entry, key) for entry in asked]
        gone = set(filter(None, map(removed, names)))
        for name in gone:
            self._clear(field, name)
        for name in names:
            if not removed(name):
                self._claim(field, name)
        touched = gone | set(names) | {REMOVAL + name for name in names}
        _keep(merged, lambda entry: getattr(entry, key) not in touched)
        _keep(view, lambda entry: getattr(entry, key) not in touched)
        merged.extend(entry for entry in asked if removed(getattr(entry, key)) not in names)
        view.extend(entry for entry in asked if not removed(getattr(entry, key)))

    def _env(self, wanted: Iterable[nri.KeyValue]) -> None:
        asked = list(wanted)
        view = nri.ContainerAdjustment()
        for item in self.request.container.env:
            name, _, value = item.partition("=")
            view.env.add(key=name, value=value)
        self._list(nri.Env, "key", asked, self.merged.env, view.env)
        if asked:
            del self.request.container.env[:]
            self.request.container.env.extend(f"{pair.key}={pair.value}" for pair in view.env)

    def _args(self, wanted: Iterable[str]) -> None:
        args = list(wanted)
        if not args:
            return
        if args[0] == "":  # whatever others have set is to be replaced
            self._clear(nri.Args)
            args = args[1:]
        self._claim(nri.Args)
        for message in (self.merged, self.request.container):
            del message.args[:]
            message.args.extend(args)

    def _hooks(self, wanted: nri.Hooks) -> None:
        any_of_them = False
        for name in HOOKS:
            hooks = getattr(wanted, name)
            any_of_them = any_of_them or len(hooks) > 0
            for message in (self.merged, self.request.container):
                getattr(message.hooks, name).extend(hooks)
        if any_of_them:
            self.owners.add(self.request.container.id, nri.OciHooks, self._plugin)

    def _rdt(self, wanted: nri.LinuxRdt) -> None:
        merged = self.merged.linux.rdt
        if wanted.remove:
            for field in RDT.values():
                self._clear(field)
            merged.Clear()
            merged.remove = True
        for name, field in RDT.items():
            if wanted.HasField(name):
                self._claim(field)
                getattr(merged, name).CopyFrom(getattr(wanted, name))
                merged.remove = False


def _keep(entries: RepeatedCompositeFieldContainer[M], wanted: Callable[[M], bool]) -> None:
    kept = [entry for entry in entries if wanted(entry)]
    if len(kept) < len(entries):
        copies = []
        for entry in kept:
            copy = type(entry)()
            copy.CopyFrom(entry)
            copies.append(copy)
        del entries[:]
        entries.extend(copies)
