#!/bin/sh
# Holds a node's namespaces until standard input ends, be it because the tests were killed; then
# ends whatever is left of the node. Told by the environment: DIRECTORY, CGROUP, DISK_BYTES.
set -eu
ip link set lo up
[ "$DISK_BYTES" = 0 ] || mount -t tmpfs -o size="$DISK_BYTES" disk "$DIRECTORY/root"
echo ready
cat >/dev/null

mine=$(readlink /proc/self/ns/mnt)
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        [ "$pid" = $$ ] && continue
        if [ "$(readlink "$process/ns/mnt" 2>/dev/null)" = "$mine" ] ||
            grep -qs ":$CGROUP/" "$process/cgroup"; then
            kill -9 "$pid" 2>/dev/null && left=yes
        fi
    done
    [ -n "$left" ] || break
    [ "$round" -lt 5 ] || sleep 0.1 # what is dead and not yet buried can be killed, too
done
for top in /sys/fs/cgroup"$CGROUP" /sys/fs/cgroup/*"$CGROUP"; do
    [ -d "$top" ] && find "$top" -depth -type d -exec rmdir {} + 2>/dev/null || true
done
while read -r _ place _; do
    case $place in "$DIRECTORY"/*) umount -l "$place" 2>/dev/null || true ;; esac
done </proc/mounts
rm -rf --one-file-system "$DIRECTORY" 2>/dev/null || true
