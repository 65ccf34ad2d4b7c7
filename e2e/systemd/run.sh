#!/bin/sh
# In the machine that `make guest` boots, with the staged tree as the working directory: installs
# podwright, runs every test that the machine is there for, and removes podwright.
set -eu
cd "$(dirname "$0")/../.."
e2e/systemd/install.sh
[ ! -x bin/kubelet ] || export PODWRIGHT_KUBELET="$PWD/bin/kubelet"
export PATH="/usr/local/sbin:/usr/local/bin:$PATH" PODWRIGHT_SYSTEMD_NODE=1
export PYTHONPATH="$PWD" # programs that tests start are of the checkout, too
code=0
# What forks comes first, in a process of its own: gRPC, which the others load, does not like forks.
# shellcheck disable=SC2086  # words for pytest
run() { /opt/podwright/bin/pytest -p no:cacheprovider -o faulthandler_timeout=300 -q --durations=10 ${PYTEST:-} "$@" || code=$?; }
# One test starts an interpreter that sees installed packages only, where no tests are.
run runtime/tests/test_cgroup*.py runtime/tests/test_update.py runtime/tests/test_usage*.py runtime/tests/test_apparmor.py \
    --deselect runtime/tests/test_apparmor.py::test_a_profile_that_the_kernel_does_not_have_ends_the_start
run e2e/systemd cri/tests/test_apparmor.py e2e/test_apparmor.py
[ "$code" != 0 ] || e2e/systemd/remove.sh
exit "$code"
