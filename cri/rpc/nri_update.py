"""What NRI plugins want changed of containers that exist, in CRI's words and beyond them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.errors import AdjustmentImpossible
from cri.nri import resources
from cri.nri import spec as nri_spec
from cri.nri.api import nri_pb2 as nri
from cri.specgen.update import Beyond

if TYPE_CHECKING:
    from cri.api import api_pb2 as api


def divided(
    wanted: nri.LinuxResources, who: str
) -> tuple[api.LinuxContainerResources, Beyond | None]:
    """who: the plugins. Raises AdjustmentImpossible."""
    for _, where in resources.fixed(wanted):
        text = "can't be changed of a container that exists"
        raise AdjustmentImpossible(who, f"linux.resources.{where}", text)
    rest = resources.without_cri(wanted)
    if not list(resources.given(rest)):
        return resources.to_cri(wanted), None

    def remember(kept: bytes | None) -> bytes:
        adjustment = nri.ContainerAdjustment.FromString(kept or b"")
        resources.merge(adjustment.linux.resources, rest)
        return adjustment.SerializeToString()

    return resources.to_cri(wanted), Beyond(nri_spec.changes(rest), remember)
