#!/usr/bin/env bash
# A real Kubernetes API (etcd, kube-apiserver, kube-controller-manager) without containers, for the tests.
#
#   tests/real-kubernetes.sh get         get or build the binaries; prints their folder
#   tests/real-kubernetes.sh start DIR   start them on free ports, data and logs in DIR; prints lines to `eval`
#   tests/real-kubernetes.sh restart DIR end the API server of `start DIR` and start it again, on the same port and data
#   tests/real-kubernetes.sh stop DIR    stop what `start DIR` started
#
# The binaries come from $KUBEBUILDER_ASSETS if that is set (the convention of setup-envtest), else from a cache
# that `get` fills: etcd from the system's packages, the other two built from source with Go (about 5 minutes,
# 4 GB of Go's own caches). There is no kubelet and no scheduler: pods stay Pending until a test moves them.
# The controller manager runs deletion by owner reference and quota usage only.
set -euo pipefail

readonly VERSION=v1.36.3
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/gharts-listener/kubernetes-$VERSION
readonly TOKEN=gharts-test-admin

say() { echo "real-kubernetes: $*" >&2; }
die() { say "$*"; exit 1; }

# Prints where binary $1 is, or nothing.
find_binary() {
    local folder
    for folder in "${KUBEBUILDER_ASSETS:-}" "$CACHE"; do
        if [[ -n $folder && -x $folder/$1 ]]; then
            echo "$folder/$1"
            return
        fi
    done
    if [[ $1 == etcd ]]; then command -v etcd || true; fi
}

get() {
    mkdir -p "$CACHE"
    # Two callers at once: the second waits for the first one's build.
    exec 9>"$CACHE/.lock"
    flock 9
    if [[ -z $(find_binary etcd) ]]; then get_etcd; fi
    local missing=() name
    for name in kube-apiserver kube-controller-manager; do
        [[ -n $(find_binary $name) ]] || missing+=("$name")
    done
    if ((${#missing[@]})); then build "${missing[@]}"; fi
    exec 9>&-
    echo "$CACHE"
}

get_etcd() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || die "no etcd: install it, or set KUBEBUILDER_ASSETS"
    say "installing etcd-server"
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists at hand"
    # The unit would start a server of its own: none is wanted.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends etcd-server >&2
    command -v etcd >/dev/null || die "etcd-server was installed, but there is no etcd"
}

# `go install k8s.io/kubernetes/cmd/...@VERSION` is refused because of that module's replace lines; a module of
# one's own that repeats them, with the published versions of the staging modules, is not.
build() {
    command -v go >/dev/null || die "no Go to build $* with: install it, or set KUBEBUILDER_ASSETS"
    local dir gomod staging name
    dir=$(mktemp -d)
    say "building $* $VERSION from source"
    gomod=$(cd "$dir" && go mod download -json "k8s.io/kubernetes@$VERSION" | sed -n 's/^\t"GoMod": "\(.*\)",\{0,1\}$/\1/p')
    [[ -f $gomod ]] || die "could not fetch k8s.io/kubernetes $VERSION"
    staging=v0.${VERSION#v1.}
    {
        echo "module kas"
        echo
        grep -E '^(go|godebug) ' "$gomod" | head -n 1
        echo
        echo "require k8s.io/kubernetes $VERSION"
        echo
        sed -nE "s,^[[:space:]]*(replace )?(k8s\.io/[^ ]+) => \./staging/src/.*,replace \2 => \2 $staging,p" "$gomod"
    } >"$dir/go.mod"
    {
        echo "//go:build tools"
        echo
        echo "package kas"
        echo
        for name in kube-apiserver kube-controller-manager; do echo "import _ \"k8s.io/kubernetes/cmd/$name\""; done
    } >"$dir/tools.go"
    (
        cd "$dir"
        local v=k8s.io/component-base/version minor
        minor=${VERSION#v1.}
        go mod tidy >&2
        for name in "$@"; do
            say "compiling $name"
            go build -o "$CACHE/$name.new" -ldflags "-s -w -X $v.gitVersion=$VERSION -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*}" \
                "k8s.io/kubernetes/cmd/$name" >&2
            mv "$CACHE/$name.new" "$CACHE/$name"
        done
    )
    rm -rf "$dir"
}

# Prints a port of 127.0.0.1 on which nobody listens.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# launch NAME COMMAND...: in the background; log, pid and the command in $dir.
launch() {
    local name=$1
    shift
    "$@" >>"$dir/$name.log" 2>&1 </dev/null 9>&- &
    echo $! >"$dir/$name.pid"
    printf '%s\0' "$@" >"$dir/$name.command"
}

alive() { kill -0 "$(<"$dir/$1.pid")" 2>/dev/null; }

# until_ready PORT: waits for the API server of $dir.
until_ready() {
    local i
    for ((i = 0; ; i++)); do
        if curl -sf --max-time 2 --cacert "$dir/certs/apiserver.crt" -H "Authorization: Bearer $TOKEN" \
            "https://127.0.0.1:$1/readyz" >/dev/null 2>&1; then break; fi
        if ! alive etcd || ! alive kube-apiserver || ((i > 300)); then
            tail -n 5 "$dir/etcd.log" "$dir/kube-apiserver.log" >&2
            stop "$dir"
            die "the API server did not become ready"
        fi
        sleep 0.2
    done
}

start() {
    local dir=$1 etcd_port peer_port port i
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [[ ! -e $dir/kube-apiserver.pid ]] || die "$dir is in use: stop it first"
    get >/dev/null
    etcd_port=$(free_port) peer_port=$(free_port) port=$(free_port)

    local client=http://127.0.0.1:$etcd_port peer=http://127.0.0.1:$peer_port
    launch etcd "$(find_binary etcd)" --data-dir "$dir/etcd" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" --unsafe-no-fsync

    openssl genrsa -out "$dir/sa.key" 2048 2>/dev/null
    openssl rsa -in "$dir/sa.key" -pubout -out "$dir/sa.pub" 2>/dev/null
    echo "$TOKEN,admin,admin,system:masters" >"$dir/tokens.csv"
    printf 'apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n' >"$dir/audit-policy.yaml"
    launch kube-apiserver "$(find_binary kube-apiserver)" --etcd-servers "$client" --secure-port "$port" \
        --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --cert-dir "$dir/certs" \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file "$dir/sa.pub" --service-account-signing-key-file "$dir/sa.key" \
        --authorization-mode RBAC --token-auth-file "$dir/tokens.csv" --service-cluster-ip-range 10.96.0.0/24 \
        --allow-privileged=true --disable-admission-plugins ServiceAccount --endpoint-reconciler-type none \
        --audit-policy-file "$dir/audit-policy.yaml" --audit-log-path "$dir/audit.log"

    until_ready "$port"
    cat >"$dir/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: real, cluster: {server: "https://127.0.0.1:$port", certificate-authority-data: $(base64 -w0 "$dir/certs/apiserver.crt")}}]
users: [{name: admin, user: {token: $TOKEN}}]
contexts: [{name: real, context: {cluster: real, user: admin, namespace: default}}]
current-context: real
YAML
    launch kube-controller-manager "$(find_binary kube-controller-manager)" --kubeconfig "$dir/kubeconfig" \
        --controllers garbage-collector-controller,resourcequota-controller --leader-elect=false --secure-port 0
    echo "export GHARTS_TEST_KUBECONFIG=$dir/kubeconfig GHARTS_TEST_AUDIT_LOG=$dir/audit.log GHARTS_TEST_ETCD=$client"
}

restart() {
    local dir command
    dir=$(cd "$1" && pwd)
    [[ -f $dir/kube-apiserver.pid ]] || die "$dir: no API server of ours runs there"
    mapfile -d '' -t command <"$dir/kube-apiserver.command"
    end "$dir" kube-apiserver
    launch kube-apiserver "${command[@]}"
    until_ready "$(sed -n 's/.*127.0.0.1:\([0-9]*\)".*/\1/p' "$dir/kubeconfig")"
}

stop() {
    end "$1" kube-controller-manager kube-apiserver etcd
}

# end DIR NAME...: ends these, in this order.
end() {
    local dir=$1 name pid i
    shift
    for name in "$@"; do
        [[ -f $dir/$name.pid ]] || continue
        pid=$(<"$dir/$name.pid")
        # A pid may have been given to somebody else since: only a process of that name is ours.
        if [[ -r /proc/$pid/cmdline ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "$name"; then
            kill "$pid" 2>/dev/null || true
            for ((i = 0; i < 50; i++)); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
            kill -9 "$pid" 2>/dev/null || true
        fi
        rm -f "$dir/$name.pid"
    done
}

case "${1:-} $#" in
    "get 1") get ;;
    "start 2") start "$2" ;;
    "restart 2") restart "$2" ;;
    "stop 2") stop "$2" ;;
    *) die "usage: $0 get | start DIR | restart DIR | stop DIR" ;;
esac
