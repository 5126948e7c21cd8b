#!/usr/bin/env bash
# Runs a command beside a real Kubernetes API that lives as long as the command:
#
#   tests/with-real-kubernetes.sh cargo test --test it contract
#
# The command finds GHARTS_TEST_KUBECONFIG (an administrator's), GHARTS_TEST_AUDIT_LOG (one JSON line per
# request) and GHARTS_TEST_ETCD (the URL of the store behind it) in its environment. Its exit code is ours.
set -euo pipefail

(($#)) || { echo "usage: $0 COMMAND [ARGUMENT]..." >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
cleanup() {
    "$here/real-kubernetes.sh" stop "$dir"
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
settings=$("$here/real-kubernetes.sh" start "$dir")
eval "$settings"
"$@"
