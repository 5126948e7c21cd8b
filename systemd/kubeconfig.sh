#!/usr/bin/env bash
# What a daemon outside of the cluster needs in it: a service account, Roles with the rights of the chart and no more,
# and a kubeconfig for it, on standard output. Needs kubectl and, once, an administrator's rights.
#
#   kubeconfig.sh [--namespace gharts-listener] [--runners runners] [--duration 8760h] > kubeconfig
#
# The kubeconfig's token expires (standard error says when; the API server may grant less than asked for): run it again
# before that. `--delete` takes everything back; the namespaces stay.
set -euo pipefail

namespace=gharts-listener runners=runners duration=8760h delete=
while (($#)); do
    case "$1" in
        --namespace) namespace=$2 && shift 2 ;;
        --runners) runners=$2 && shift 2 ;;
        --duration) duration=$2 && shift 2 ;;
        --delete) delete=yes && shift ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
    esac
done
readonly name=gharts-listener

binding() {
    cat <<YAML
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: $name, namespace: $1}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: $name}
subjects: [{kind: ServiceAccount, name: $name, namespace: $namespace}]
YAML
}

objects() {
    cat <<YAML
apiVersion: v1
kind: ServiceAccount
metadata: {name: $name, namespace: $namespace}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: $name, namespace: $runners}
rules:
  - {apiGroups: [""], resources: [pods], verbs: [get, list, watch, create, patch, delete]}
  - {apiGroups: [""], resources: [secrets], verbs: [create]}
  - {apiGroups: ["", events.k8s.io], resources: [events], verbs: [create]}
  - {apiGroups: [""], resources: [namespaces], resourceNames: ["$runners"], verbs: [get]}
$(binding "$runners")
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: $name, namespace: $namespace}
rules:
  - {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [$name], verbs: [create]}
  - {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [$name], verbs: [get, update]}
  - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
$(binding "$namespace")
YAML
}

if [[ $namespace == "$runners" ]]; then
    echo "the daemon and the runners need a namespace each: their Roles have one name" >&2
    exit 64
fi
if [[ -n $delete ]]; then
    objects | kubectl delete --ignore-not-found --filename - >&2
    exit
fi
for one in "$namespace" "$runners"; do
    kubectl get namespace "$one" >/dev/null 2>&1 || kubectl create namespace "$one" >&2
done
objects | kubectl apply --filename - >&2
token=$(kubectl --namespace "$namespace" create token "$name" --duration "$duration")

# The claims are the second part of the token.
claims=$(cut -d. -f2 <<<"$token" | tr '_-' '/+')
while ((${#claims} % 4)); do claims+="="; done
expires=$(base64 --decode <<<"$claims" | grep -o '"exp":[0-9]*' | cut -d: -f2)
echo "the token in it expires on $(date --utc --date "@$expires" '+%Y-%m-%d %H:%M UTC')" >&2

config() { kubectl config view --minify --flatten --raw --output "jsonpath={.clusters[0].cluster.$1}"; }
cat <<YAML
apiVersion: v1
kind: Config
clusters:
  - name: cluster
    cluster:
      server: "$(config server)"
      certificate-authority-data: "$(config certificate-authority-data)"
users:
  - name: $name
    user: {token: "$token"}
contexts:
  - name: $name
    context: {cluster: cluster, user: $name, namespace: $namespace}
current-context: $name
YAML
