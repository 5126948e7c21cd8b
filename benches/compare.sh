#!/usr/bin/env bash
# The daemon against the least program that could do it (benches/least.rs), on a real kube-apiserver, in one run:
#
#   benches/compare.sh                       everything, about 8 minutes
#   benches/compare.sh --rounds 3 --memory ''  three rounds, no figures of idle memory
#   benches/compare.sh --help                every option
#
# etcd runs without fsync, the API server writes an audit log, the simulated world plays GitHub and the kubelet.
# Prints one table with absolute figures and ratios. Nothing is left behind.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
case " $* " in *" --help "* | *" -h "*) exec python3 "$here/compare.py" --help ;; esac

(cd "$root" && cargo build --release --features bench --bin gharts-listener --bin least)
dir=$(mktemp -d)
cleanup() {
    "$root/tests/real-kubernetes.sh" stop "$dir/kubernetes"
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
eval "$("$root/tests/real-kubernetes.sh" start "$dir/kubernetes")"
target=${CARGO_TARGET_DIR:-$root/target}/release
python3 "$here/compare.py" --kubeconfig "$GHARTS_TEST_KUBECONFIG" --audit-log "$GHARTS_TEST_AUDIT_LOG" \
    --dir "$dir/runs" --daemon "$target/gharts-listener" --least "$target/least" "$@"
