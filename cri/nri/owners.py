"""Which plugin has set what of which container, while one request goes from plugin to plugin.

What one plugin has set no other may set. It may take it away (a key with `-` before it), and then
it alone may set it anew.
"""

from __future__ import annotations

from cri.errors import PluginsDisagree
from cri.nri.api import nri_pb2 as nri

REMOVAL = "-"


def removed(key: str) -> str:
    """The key that is to be taken away; "" if this is no such wish."""
    return key[1:] if key.startswith(REMOVAL) else ""


class Owners:
    """By container, field, and for lists and maps by entry."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, nri.Field, str], str] = {}

    def copy(self) -> Owners:
        """To try something with."""
        made = Owners()
        made._owners = dict(self._owners)
        return made

    def claim(self, container_id: str, field: nri.Field, plugin: str, entry: str = "") -> None:
        """Raises PluginsDisagree: another has."""
        place = (container_id, field, entry)
        other = self._owners.get(place, plugin)
        if (removed(other) or other) != plugin:
            what = f"{nri.Field.Name(field)} {entry}".rstrip()
            raise PluginsDisagree(what, removed(other) or other, plugin)
        self._owners[place] = plugin

    def clear(self, container_id: str, field: nri.Field, plugin: str, entry: str = "") -> None:
        """The plugin has taken it away, whosoever it was."""
        self._owners[container_id, field, entry] = REMOVAL + plugin

    def add(self, container_id: str, field: nri.Field, plugin: str) -> None:
        """One more plugin that has contributed to what may be of many (hooks)."""
        place = (container_id, field, "")
        self._owners[place] = ",".join(filter(None, (self._owners.get(place, ""), plugin)))

    def of(self, container_id: str, field: nri.Field, entry: str = "") -> str:
        """The plugin's name; "": nobody's."""
        owner = self._owners.get((container_id, field, entry), "")
        return removed(owner) or owner

    def entries(self, container_id: str, field: nri.Field) -> dict[str, str]:
        """The owners of a list's or map's entries."""
        return {
            entry: self.of(container_id, field, entry)
            for of, what, entry in self._owners
            if of == container_id and what == field and entry
        }

    def names(self, container_id: str) -> set[str]:
        """Every plugin that has set something of a container."""
        owners = (owner for (of, _, _), owner in self._owners.items() if of == container_id)
        return {name for owner in owners for name in (removed(owner) or owner).split(",")}

    def message(self) -> nri.OwningPlugins:
        """As validators get to see it."""
        told = nri.OwningPlugins()
        for (container_id, field, entry), owner in self._owners.items():
            of = told.owners[container_id]
            if entry:
                of.compound[field].owners[entry] = owner
            else:
                of.simple[field] = owner
        return told
