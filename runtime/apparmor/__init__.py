"""AppArmor: which profiles the kernel has, and the one that we bring for RuntimeDefault.

    podwright-default   its text, for apparmor_parser(8)
    profiles.py         is AppArmor on, which profiles are loaded, load ours

A container's init asks the kernel for its profile (runtime/init/security.py); from the program's
execve on it holds, for the program and for all that it starts.
"""
