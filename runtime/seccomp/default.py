"""RuntimeDefault as data: which system calls a container may make. Names are the kernel's.

In effect the profile that the other runtimes ship today, so that a workload meets no surprise
here. What is not named is refused with EPERM; what is newer than all names here, with ENOSYS, so
that libc falls back. Left out on purpose: io_uring_* (a way round every filter), keyctl and its
kin (keyrings know no namespaces), userfaultfd, kexec_*, swapon, pivot_root, nfsservctl, and for
those without the capability all that BY_CAPABILITY lists.
"""

from __future__ import annotations

from collections.abc import Mapping

EPERM, ENOSYS = 1, 38

# Address families that reach past the container: the kernel's crypto API (CVE-2026-31431), and
# hypervisors. socketcall(2) of 32-bit programs passes them in memory, where no filter can look.
AF_ALG, AF_VSOCK = 38, 40

FILES = """
    access cachestat chdir chmod chown chown32 close_range copy_file_range creat faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents
    getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat llistxattr lremovexattr
    lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
    openat2 readlink readlinkat removexattr removexattrat rename renameat renameat2 rmdir setxattr
    setxattrat stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range
    syncfs truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
"""
DESCRIPTORS = """
    _llseek _newselect close dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 fcntl fcntl64 io_cancel
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl lseek pipe
    pipe2 poll ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev
    pwritev2 read readahead readv select sendfile sendfile64 signalfd signalfd4 splice tee
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 vmsplice
    write writev
"""
SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
PROCESSES = """
    capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp
    getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage
    getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self pause pidfd_open pidfd_send_signal prctl
    prlimit64 process_mrelease process_vm_readv process_vm_writev ptrace restart_syscall rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setuid setuid32 sigaltstack sigprocmask sigreturn tgkill tkill
    ugetrlimit uretprobe vfork wait4 waitid waitpid
"""
MEMORY = """
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
    pkey_mprotect remap_file_pages
"""
SYNCHRONISATION = """
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
    msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl
    shmdt shmget
"""
TIME_AND_SYSTEM = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer getrandom gettimeofday
    nanosleep riscv_hwprobe setitimer sysinfo time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 times uname
"""

# Machine (as uname -m says) -> calls that only exist there.
BY_MACHINE: Mapping[str, str] = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": """
        arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2
    """,
    "ppc64le": "swapcontext sync_file_range2",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    "riscv64": "riscv_flush_icache",
}

BY_CAPABILITY: Mapping[str, str] = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
        lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount
        umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# personality(2) may ask for these, and for nothing else: 0xffffffff only asks which one holds;
# 8 is PER_LINUX32, 0x20000 UNAME26.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# clone(2) without CAP_SYS_ADMIN: none of CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}. clone3 hides
# its flags behind a pointer, so libc is told to use clone.
NAMESPACE_FLAGS = 0x7E020000

# System calls that an older libseccomp has no name for. From 424 on, every machine gives a call
# the same number (asm-generic/unistd.h); the one below is x86-64's alone.
NEW_NUMBERS: Mapping[str, int] = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
}
NEW_NUMBERS_X86_64: Mapping[str, int] = {"uretprobe": 335, "uprobe": 336}
