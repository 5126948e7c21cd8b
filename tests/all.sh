#!/usr/bin/env bash
# Every test. Beside Rust nothing is needed: with Go (or KUBEBUILDER_ASSETS) a real Kubernetes API server is
# built once and cached, and the contract tests hold the simulated one against it; without, that half says
# that it was skipped. With Go (or HELM) real Helm renders the chart and installs it there. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Built before the API server starts: it should not idle for minutes beside the compiler.
cargo test --no-run "$@"
if GHARTS_TEST_HELM=$(tests/helm.sh get); then
  export GHARTS_TEST_HELM
else
  echo 'SKIPPED: no Helm (needs Go, or HELM): the chart is not rendered, nor installed (b29, b35, b36, b38, b56)' >&2
  unset GHARTS_TEST_HELM
fi
if tests/real-kubernetes.sh get >&2; then
  exec tests/with-real-kubernetes.sh cargo test --no-fail-fast "$@"
fi
echo 'SKIPPED: no real Kubernetes API server (needs Go, or KUBEBUILDER_ASSETS): contract::real is not run' >&2
exec cargo test --no-fail-fast "$@"
