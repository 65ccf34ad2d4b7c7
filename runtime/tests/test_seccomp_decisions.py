"""What RuntimeDefault decides where it could have decided otherwise, each with its reason.

Most system calls are plainly harmless or plainly not. These are the ones that people argue about,
or that were decided differently in the past: whoever changes the profile meets the reason here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from runtime.init.capabilities import NAMES
from runtime.seccomp import machine
from runtime.seccomp.compile import program
from runtime.seccomp.profile import default_profile
from runtime.tests.seccomp_driver import ALLOW, ENOSYS, EPERM, verdict

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")

NATIVE = machine.native_architectures()[0]
# What a container has that asks for nothing: see cri/specgen/security.py.
PLAIN = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)
NEWNS, NEWUSER, NEWNET, NEWTIME = 0x20000, 0x10000000, 0x40000000, 0x80
VM_OR_THREAD = 0x3D0F00  # what pthread_create asks of clone
NEVER = "never"
UNIX, NETLINK, ALG, VSOCK = 1, 16, 38, 40


@dataclass(frozen=True)
class Decision:
    """A call with its first argument; plain: the answer for a container that asks for nothing.

    unlocked: the capability with which it is allowed; NEVER: with none, not even with all.
    """

    call: str
    argument: int
    plain: int
    unlocked: str
    reason: str


DECISIONS = (
    # other ways to the same kernel code
    Decision("io_uring_setup", 0, EPERM, NEVER, "its operations pass no filter, and many holes"),
    Decision("io_uring_enter", 0, EPERM, NEVER, "as io_uring_setup"),
    Decision("io_uring_register", 0, EPERM, NEVER, "as io_uring_setup"),
    Decision("socket", ALG, EPERM, NEVER, "the kernel's crypto API: CVE-2026-31431 and before it"),
    Decision("socket", ALG + (1 << 32), EPERM, NEVER, "the kernel reads 32 bits, a filter 64"),
    Decision("socket", VSOCK, EPERM, NEVER, "reaches the hypervisor, and no namespace contains it"),
    Decision("socket", UNIX, ALLOW, "", "everybody needs them"),
    Decision("socket", NETLINK, ALLOW, "", "contained by network namespaces; libc asks by it"),
    # new namespaces: more of the kernel for who has no rights outside
    Decision("clone", VM_OR_THREAD, ALLOW, "", "threads"),
    Decision("clone", NEWUSER, EPERM, "CAP_SYS_ADMIN", "all rights within: most holes begin so"),
    Decision("clone", NEWNS | 17, EPERM, "CAP_SYS_ADMIN", "mounts; 17 is SIGCHLD"),
    Decision("clone", NEWNET, EPERM, "CAP_SYS_ADMIN", "nftables, by way of a user namespace"),
    Decision("clone3", 0, ENOSYS, "CAP_SYS_ADMIN", "flags behind a pointer; libc then uses clone"),
    Decision("unshare", NEWUSER, EPERM, "CAP_SYS_ADMIN", "as clone"),
    Decision("unshare", NEWTIME, EPERM, "CAP_SYS_ADMIN", "a flag that clone doesn't know"),
    Decision("setns", 0, EPERM, "CAP_SYS_ADMIN", "out of the container, given a descriptor"),
    # mounts
    Decision("mount", 0, EPERM, "CAP_SYS_ADMIN", "masked paths could be laid open"),
    Decision("move_mount", 0, EPERM, "CAP_SYS_ADMIN", "as mount"),
    Decision("open_tree", 0, EPERM, "CAP_SYS_ADMIN", "as mount"),
    Decision("pivot_root", 0, EPERM, NEVER, "no container needs another root, and hides by it"),
    Decision("statmount", 0, ALLOW, "", "reads what /proc/self/mountinfo says as well"),
    Decision("open_by_handle_at", 0, EPERM, "CAP_DAC_READ_SEARCH", "reads any file of the disk"),
    # other processes
    Decision("ptrace", 0, ALLOW, "", "since Linux 4.8 a tracer can't get round the filter"),
    Decision("process_vm_readv", 0, ALLOW, "", "as ptrace, which guards it"),
    Decision("kcmp", 0, EPERM, "CAP_SYS_PTRACE", "tells addresses of the kernel apart"),
    Decision("pidfd_getfd", 0, EPERM, "CAP_SYS_PTRACE", "takes descriptors out of a process"),
    Decision("pidfd_open", 0, ALLOW, "", "names a process that kill could name"),
    # what namespaces do not contain
    Decision("keyctl", 0, EPERM, NEVER, "keyrings are the node's"),
    Decision("add_key", 0, EPERM, NEVER, "as keyctl"),
    Decision("syslog", 0, EPERM, "CAP_SYSLOG", "the node's kernel log, with addresses"),
    Decision("settimeofday", 0, EPERM, "CAP_SYS_TIME", "the node's clock"),
    Decision("adjtimex", 0, ALLOW, "", "reads without a right; setting is the kernel's business"),
    Decision("reboot", 0, EPERM, "CAP_SYS_BOOT", "the node"),
    Decision("kexec_load", 0, EPERM, NEVER, "another kernel"),
    Decision("init_module", 0, EPERM, "CAP_SYS_MODULE", "more kernel"),
    Decision("swapon", 0, EPERM, NEVER, "the node's memory"),
    Decision("iopl", 0, EPERM, "CAP_SYS_RAWIO", "the node's hardware"),
    # tools of attackers, rarely of others
    Decision("userfaultfd", 0, EPERM, NEVER, "holds the kernel up at a chosen moment"),
    Decision("bpf", 0, EPERM, "CAP_BPF", "programs in the kernel"),
    Decision("perf_event_open", 0, EPERM, "CAP_PERFMON", "looks into other processes"),
    Decision("mbind", 0, EPERM, "CAP_SYS_NICE", "places memory on nodes that others paid for"),
    Decision("personality", 0x0040000, EPERM, NEVER, "ADDR_NO_RANDOMIZE: makes holes easy to use"),
    Decision("personality", 0, ALLOW, "", "the plain one"),
    Decision("personality", 0xFFFFFFFF, ALLOW, "", "only asks"),
    # new, and wanted
    Decision("landlock_create_ruleset", 0, ALLOW, "", "confines further"),
    Decision("seccomp", 1, ALLOW, "", "confines further"),
    Decision("memfd_secret", 0, ALLOW, "", "memory that the kernel can't read by accident"),
    Decision("openat2", 0, ALLOW, "", "paths that can't escape"),
    Decision("mseal", 0, ALLOW, "", "confines further"),
    Decision("futex_waitv", 0, ALLOW, "", "games and Wine"),
    Decision("chroot", 0, ALLOW, "", "with a right that containers have"),
)


def answer(decision: Decision, capabilities: tuple[str, ...]) -> int:
    code = program(default_profile(capabilities))
    (call,) = machine.calls(decision.call, NATIVE)
    return verdict(code, NATIVE.audit, call.number, [decision.argument])


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda one: f"{one.call}-{one.argument:x}")
def test_a_container_that_asks_for_nothing_gets_what_was_decided(decision: Decision) -> None:
    assert answer(decision, PLAIN) == decision.plain, decision.reason


@pytest.mark.parametrize(
    "decision",
    [one for one in DECISIONS if one.unlocked],
    ids=lambda one: f"{one.call}-{one.argument:x}",
)
def test_what_is_refused_is_unlocked_by_one_capability_or_by_none(decision: Decision) -> None:
    if decision.unlocked == NEVER:
        assert answer(decision, NAMES) == decision.plain, decision.reason
        return
    assert answer(decision, (*PLAIN, decision.unlocked)) == ALLOW, decision.reason
    others = tuple(name for name in NAMES if name not in (decision.unlocked, "CAP_SYS_ADMIN"))
    assert answer(decision, others) == decision.plain, decision.reason


def test_every_refusal_says_how_it_is_unlocked_and_no_permission_does() -> None:
    for decision in DECISIONS:
        assert bool(decision.unlocked) == (decision.plain != ALLOW), decision
        assert decision.reason
