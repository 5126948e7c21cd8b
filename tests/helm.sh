#!/usr/bin/env bash
# Helm, for the tests of charts/: `tests/helm.sh get` prints the path of a helm.
#
# $HELM if that is set, else one that was built before, else one in PATH that is new enough, else built from source
# with Go (about 2 minutes, once).
set -euo pipefail

readonly VERSION=v4.3.1
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/gharts-listener/helm-$VERSION

say() { echo "helm: $*" >&2; }
die() { say "$*"; exit 1; }

get() {
    if [[ -n ${HELM:-} ]]; then
        command -v "$HELM" || die "\$HELM is no program: $HELM"
        return
    fi
    mkdir -p "$CACHE"
    # Two callers at once: the second waits for the first one's build.
    exec 9>"$CACHE/.lock"
    flock 9
    if [[ ! -x $CACHE/helm ]]; then
        # Helm 3 before 3.18 checks values by another library, with other words.
        if command -v helm >/dev/null && helm version --template '{{.Version}}' | grep -q '^v4\.'; then
            command -v helm
            return
        fi
        command -v go >/dev/null || die "no Go to build helm with: install it, or set HELM"
        say "building helm $VERSION from source"
        mkdir -p "$CACHE/new"
        (cd / && GOBIN=$CACHE/new GOFLAGS=-mod=mod go install -ldflags '-s -w' "helm.sh/helm/v4/cmd/helm@$VERSION" >&2)
        mv "$CACHE/new/helm" "$CACHE/helm"
        rmdir "$CACHE/new"
    fi
    echo "$CACHE/helm"
}

case "${1:-} $#" in
    "get 1") get ;;
    *) die "usage: $0 get" ;;
esac
