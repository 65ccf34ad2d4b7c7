#!/bin/sh
# In the throw-away machine: podwright as docs/node.md installs it, in its very words, but that packages
# are here already and wheels lie in ./wheels; then what the tests need.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin  # as when one logs in
export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels" PIP_COMPILE=0 PIP_DISABLE_PIP_VERSION_CHECK=1

step() { # NUMBER: the commands of a step of the page
    sed -n "/^## $1\./,/^## /s/^    //p" docs/node.md | grep -v '^apt '
}

for number in 1 2; do
    step "$number" | sh -eux
done
/opt/podwright/bin/pip install --quiet pytest pytest-asyncio hypothesis pyroute2
