"""Specs as NRI plugins want them to be."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from cri import blockio
from cri.cdi import injection
from cri.errors import InvalidRequest
from cri.nri import spec as nri_spec
from cri.nri.api import nri_pb2 as nri
from cri.rpc import container_spec, image_volumes
from cri.rpc.worker import SECONDS
from cri.specgen import cdi, facts
from cri.specgen import container as specgen
from cri.specgen.subject import Facts
from runtime.errors import InvalidSpec
from runtime.init import plan
from runtime.seccomp.compile import program
from runtime.spec import Rootfs

if TYPE_CHECKING:
    from cri.nri.refusals import Owner
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from runtime.spec import Spec

log = logging.getLogger(__name__)
_ANY_ROOT = Rootfs(lower=("/",))


async def adjusted(
    services: Services,
    sandbox: Sandbox,
    spec: Spec,
    wanted: nri.ContainerAdjustment,
    owner: Owner,
) -> Spec:
    """The spec with an adjustment. What can't be in a spec is found now, not at the start.

    Raises AdjustmentImpossible, InvalidRequest, WrongState, NotImplementedYet (CDI), PathHangs.
    """
    names = [
        injection.Request(
            device.name, f"CDI device of NRI plugin {owner(nri.CdiDevices, device.name)}"
        )
        for device in wanted.CDI_devices
    ]
    if names:
        directories = services.config.devices.cdi_spec_dirs
        found = await services.workers.call(SECONDS, injection.resolve, names, directories)
        spec = cdi.applied(spec, found)
    if wanted.linux.resources.HasField("blockio_class"):
        spec = await _of_class(services, spec, wanted.linux.resources.blockio_class.value, owner)
    spec = _scored(nri_spec.applied(spec, wanted, owner))
    try:
        if spec.linux.seccomp is not None and wanted.linux.HasField("seccomp_policy"):
            program(spec.linux.seccomp)
        plan.container(spec, _ANY_ROOT)
        services.runtime.updates.check(spec.linux.resources)
    except InvalidSpec as error:
        raise InvalidRequest("as NRI plugins want the container", str(error)) from None
    return spec


async def _of_class(services: Services, spec: Spec, name: str, owner: Owner) -> Spec:
    """name: of a class of block I/O; "" takes it away. Raises InvalidRequest, WrongState."""
    meaning = None
    if name:
        field = f"blockio_class of NRI plugin {owner(nri.BlockioClass, '')}"
        file = services.config.devices.blockio_config_file
        meaning = await services.workers.call(SECONDS, blockio.resolve, name, field, file)
    resources = dataclasses.replace(spec.linux.resources, block_io=meaning)
    return dataclasses.replace(spec, linux=dataclasses.replace(spec.linux, resources=resources))


async def again(services: Services, sandbox: Sandbox, spec: Spec, adjustment: bytes) -> Spec:
    """The spec of a container whose plugins have been asked by an earlier daemon."""
    wanted = nri.ContainerAdjustment.FromString(adjustment)
    return await adjusted(services, sandbox, spec, wanted, _nobody)


def sketch(services: Services, container: Container) -> Spec:
    """The spec of a container of an earlier daemon, but for what the node would have to be asked
    for: devices, profiles in files. Raises CriFault, RuntimeFault."""
    sandbox = services.store.sandboxes.get(container.metadata.sandbox_id)
    image = services.images.find(container.metadata.image_id)
    if image is None:
        raise InvalidRequest("image", f"{container.metadata.image_ref} was removed")
    found = Facts(image_layers=image_volumes.layers(services, container.id, container.config))
    subject = container_spec.subject(
        *(services, sandbox, container.id, container.config, image.config, found)
    )
    spec = specgen.spec(subject)
    wanted = nri.ContainerAdjustment.FromString(container.metadata.adjustment or b"")
    return nri_spec.applied(spec, wanted, _nobody)


def _nobody(_field: nri.Field, _entry: str) -> str:
    return ""


def _scored(spec: Spec) -> Spec:
    score, lowest = spec.process.oom_score_adj, facts.lowest_oom_score()
    if score is None or score >= lowest:
        return spec
    log.info("oom_score_adj %d is raised to %d: for less it takes CAP_SYS_RESOURCE", score, lowest)
    return dataclasses.replace(
        spec, process=dataclasses.replace(spec.process, oom_score_adj=lowest)
    )
