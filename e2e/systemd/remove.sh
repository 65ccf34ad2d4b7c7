#!/bin/sh
# In the throw-away machine, once pods have run there: removes podwright as docs/installation.md says, in
# its very words, and fails if something of it is left.
set -eu
sed -n '/^## Removing/,$s/^    //p' docs/installation.md | sh -eux

left=$(
    pgrep -a podwright || true
    systemctl list-units --all --plain --no-legend 'podwright*'
    ls -d /run/podwright* /var/lib/podwright* /opt/podwright 2>/dev/null || true
    ls /run/netns 2>/dev/null || true
    nft list tables | grep podwright || true
    ip -brief link | grep podwright || true
    find /sys/fs/cgroup -type d -name '*podwright*'
)
[ -z "$left" ] || {
    echo "left behind: $left" >&2
    exit 1
}
