"""The runtime that podwright is: a spec compiled into a plan, which init executes."""

from __future__ import annotations

from runtime.handlers.face import Ground, Work
from runtime.init import plan
from runtime.init.values import ContainerPlan
from runtime.prepare import Prepared, prepare
from runtime.seccomp.compile import install_flags, program


class Embedded:
    """See `Handler`."""

    name = ""
    shim = False

    def prepare(self, ground: Ground, work: Work) -> Prepared:
        return prepare(ground.place, work.directory, work.spec, compiled(ground, work))


def compiled(ground: Ground, work: Work) -> ContainerPlan:
    """The plan of a container. Raises InvalidSpec."""
    seccomp = work.spec.linux.seccomp
    code, flags = (program(seccomp), install_flags(seccomp)) if seccomp else (b"", 0)
    return plan.container(
        work.spec,
        work.rootfs,
        seccomp_program=code,
        seccomp_flags=flags,
        cgroups=ground.cgroups,
    )
