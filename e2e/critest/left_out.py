# ruff: noqa: E501  # names are the suite's own
"""Specs that are left out, by name, each with its reason. Every other spec has to pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.apparmor import profiles

NOT_YET: Mapping[str, Sequence[str]] = {
    "NRI plugins: not yet": (
        "NRI CreateContainer contract should fail CreateContainer when the NRI hook errors, leak nothing, and allow retry",
        "NRI CreateContainer contract should not expose container while CreateContainer hook is in progress",
        "NRI RunPodSandbox contract should fail RunPodSandbox and clean up when the NRI hook errors, then allow retry",
        "NRI RunPodSandbox contract should not expose sandbox while RunPodSandbox hook is in progress",
        "NRI RunPodSandbox contract should not start workload containers until RunPodSandbox hook completes",
        "NRI StopPodSandbox contract should handle StopPodSandbox idempotently and never reuse sandbox",
        "NRI StopPodSandbox contract should stop all workload containers and keep sandbox accessible while StopPodSandbox hook is in progress",
        "NRI container lifecycle (failed container) should receive CreateContainer, StartContainer, StopContainer, and RemoveContainer for a container that exits with a non-zero code",
        "NRI container lifecycle should receive CreateContainer, StartContainer, StopContainer, and RemoveContainer in strict order with correct metadata",
        "NRI plugin synchronization should receive a callback for container created during the Synchronize call",
        "NRI plugin synchronization should receive information about all containers without the race condition during initialization",
        "NRI plugin synchronization should synchronize a newly connected plugin with existing pods and containers",
        "NRI pod sandbox lifecycle should receive RunPodSandbox, StopPodSandbox, and RemovePodSandbox in strict order with correct metadata",
    ),
}

NO_APPARMOR = (
    "AppArmor runtime should prefer new apparmor field should enforce a apparmor_profile blocking writes",
    "AppArmor runtime should prefer new apparmor field should fail with an unloaded apparmor_profile",
    "AppArmor runtime should prefer new apparmor field should work with apparmor profile",
    "AppArmor runtime should support apparmor field should enforce a apparmor_profile blocking writes",
    "AppArmor runtime should support apparmor field should enforce a permissive deprecated profile",
    "AppArmor runtime should support apparmor field should fail with an unloaded apparmor_profile",
    "AppArmor runtime should support deprecated apparmor_profile field should enforce a apparmor_profile blocking writes",
    "AppArmor runtime should support deprecated apparmor_profile field should enforce a permissive deprecated profile",
    "AppArmor runtime should support deprecated apparmor_profile field should fail with an unloaded apparmor_profile",
)

OFFLINE = {
    "Image Manager public image with digest should be pulled and removed [Conformance]": "it pulls "
    "a public image by its digest, and nobody but its maker can make that image",
}

STANDALONE_SHELL = {
    "Security Context bucket runtime should support MaskedPaths": "the shell of this busybox runs "
    "its applets without exec, so masking /bin/ls hides nothing: a fuller one is named by "
    "PODWRIGHT_CRITEST_BUSYBOX",
}


def reasons(*, standalone_shell: bool) -> dict[str, str]:
    """Name -> reason. `standalone_shell`: what the images' busybox does (see images.py)."""
    apparmor = () if profiles.enabled() else NO_APPARMOR
    later = dict.fromkeys(apparmor, "this kernel has no AppArmor")
    later |= {name: reason for reason, names in NOT_YET.items() for name in names}
    return {**later, **OFFLINE, **(STANDALONE_SHELL if standalone_shell else {})}
