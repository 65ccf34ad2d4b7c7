"""Checkpoint archives: a container's processes, as CRIU wrote them, and its changed files.

config.dump, spec.dump, status.dump   JSON, for people and tools
checkpoint/*.img                      CRIU's images
rootfs-diff.tar                       the container's own layer, in the form of any image layer
devshm-checkpoint.tar                 what was in the pod's /dev/shm
dump.log, stats-dump                  what CRIU says of its work

members.py   which of it is taken from an archive, or an image that somebody else made
diff.py      a writable directory becomes rootfs-diff.tar
owners.py    whose files are, where a pod has users of its own
pack.py      a directory becomes an archive, whole or not at all
"""
