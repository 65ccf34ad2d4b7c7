#!/bin/sh
# What a machine without a network needs to install podwright and to test it, as VENV/guest:
# the checkout, wheels of the lock file, Debian's programs for tests, and a kubelet if there is one.
#
#   e2e/systemd/stage.sh VENV        in the checkout
set -eu
venv=$1
tree=$venv/guest
wheels=$venv/wheels

if [ ! "$wheels/complete" -nt requirements-dev.lock ]; then
    rm -rf "$wheels"
    "$venv/bin/pip" download --quiet --disable-pip-version-check --require-hashes \
        --only-binary :all: -r requirements-dev.lock -d "$wheels"
    touch "$wheels/complete"
fi
rm -rf "$tree"
mkdir -p "$tree/.venv" "$tree/bin"
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$tree"
cp -r "$wheels" "$tree/wheels"
cp -r "$venv/debian" "$tree/.venv/debian"
kubelet=${PODWRIGHT_KUBELET:-$(command -v kubelet || true)}
[ -z "$kubelet" ] || cp "$kubelet" "$tree/bin/kubelet"
