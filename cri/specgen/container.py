"""A CRI container as an OCI spec: the pieces put together. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.specgen import cdi, classes, handler, mounts, namespaces, process, resources, security
from runtime.cgroup.units import container_cgroup
from runtime.spec import Linux, Process, Root, Spec

if TYPE_CHECKING:
    from cri.specgen.subject import Subject


def spec(subject: Subject) -> Spec:
    """Raises InvalidRequest, NotImplementedYet: they name the field of the request."""
    config = subject.config
    security.check_privileged(subject)
    classes.refuse_rdt(config, subject.sandbox)
    capabilities = security.capabilities(subject.security)
    uid_mappings, gid_mappings = namespaces.id_mappings(
        subject.sandbox.linux.security_context.namespace_options
    )
    made = Spec(
        process=Process(
            args=process.args(config, subject.image),
            cwd=process.cwd(config, subject.image),
            env=process.env(subject),
            terminal=config.tty,
            user_lookup=process.user(subject.security, subject.image),
            capabilities=capabilities,
            no_new_privileges=subject.security.no_new_privs,
            oom_score_adj=process.oom_score(config, subject.facts.lowest_oom_score),
            apparmor_profile=subject.facts.apparmor_profile or None,
            selinux_label=subject.facts.labels.process_text or None,
        ),
        root=Root(readonly=subject.security.readonly_rootfs),
        mounts=mounts.mounts(subject),
        linux=Linux(
            namespaces=namespaces.namespaces(subject),
            uid_mappings=uid_mappings,
            gid_mappings=gid_mappings,
            devices=subject.facts.devices,
            cgroups_path=container_cgroup(subject.cgroup_parent, subject.container_id),
            resources=resources.resources(subject),
            seccomp=security.seccomp(subject, capabilities.bounding),
            masked_paths=security.masked_paths(subject),
            readonly_paths=security.readonly_paths(subject),
            mount_label=subject.facts.labels.mount_text or None,
        ),
    )
    made = handler.completed(made, subject)
    return cdi.applied(made, subject.facts.injection)
