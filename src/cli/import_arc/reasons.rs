//! Why a value of the established controller has no counterpart here.

/// By path; the longest that fits counts. Numbers in a path are left out.
const REASONS: &[(&str, &str)] = &[
    (
        "keyVault",
        "secrets come from files or variables: let the vault's CSI driver or agent write a file, and name it",
    ),
    (
        "containerMode.kubernetesModeAdditionalRoleRules",
        "add the rules to the Role of the runners' service account (docs/container-modes.md)",
    ),
    (
        "kubernetesModeServiceAccount",
        "annotate the runners' service account yourself (docs/container-modes.md)",
    ),
    (
        "listenerTemplate",
        "there is one listener for all sets: give its resources and placement to its chart or unit",
    ),
    (
        "listenerPodTemplate",
        "there is one listener for all sets: give its resources and placement to its chart or unit",
    ),
    (
        "listenerMetrics",
        "the same gha_* names are always there, with bounded labels; choose series where they are scraped",
    ),
    (
        "controllerServiceAccount",
        "there is no controller whose rights could be delegated",
    ),
    (
        "annotations",
        "no object is made for a scale set; for its pods use template.metadata",
    ),
    (
        "labels",
        "no object is made for a scale set; for its pods use template.metadata",
    ),
    (
        "resourceMeta",
        "none of these objects is made: no CRDs, no roles per set",
    ),
    ("resource", "none of these objects is made: no CRDs, no roles per set"),
    ("secretResolution", "secrets come from files or variables"),
    (
        "replicaCount",
        "a value of the listener's own chart or unit, not of its file",
    ),
    ("image", "the listener's image is a value of its own chart"),
    (
        "imagePullSecrets",
        "for the listener: a value of its own chart; for runners: template.spec.imagePullSecrets",
    ),
    ("nameOverride", "a value of the listener's own chart"),
    ("fullnameOverride", "a value of the listener's own chart"),
    (
        "env",
        "for the listener: a value of its own chart; variables GHARTS_LISTENER__... override its file",
    ),
    ("serviceAccount", "a value of the listener's own chart"),
    ("podAnnotations", "a value of the listener's own chart"),
    ("podLabels", "a value of the listener's own chart"),
    ("podSecurityContext", "a value of the listener's own chart"),
    ("securityContext", "a value of the listener's own chart"),
    ("resources", "a value of the listener's own chart"),
    (
        "nodeSelector",
        "for the listener: a value of its own chart; for runners: template.spec.nodeSelector",
    ),
    (
        "tolerations",
        "for the listener: a value of its own chart; for runners: template.spec.tolerations",
    ),
    (
        "affinity",
        "for the listener: a value of its own chart; for runners: template.spec.affinity",
    ),
    ("topologySpreadConstraints", "a value of the listener's own chart"),
    ("volumes", "a value of the listener's own chart"),
    ("volumeMounts", "a value of the listener's own chart"),
    ("priorityClassName", "a value of the listener's own chart"),
    ("metrics", "metrics are always on, at /metrics of server.listen"),
    ("pprof", "there is no profiler port"),
    (
        "flags.runnerMaxConcurrentReconciles",
        "nothing is reconciled in turn: every call runs beside the others",
    ),
    (
        "flags.k8sClientRateLimiter",
        "the listener makes four writes per runner and keeps its own measure",
    ),
    ("flags.rateLimiter", "there is no work queue"),
    (
        "flags.excludeLabelPropagationPrefixes",
        "nothing is propagated: pods get what the template says",
    ),
    (
        "flags.healthProbeBindAddress",
        "/livez and /readyz are always there, at server.listen",
    ),
    (
        "flags.updateStrategy",
        "a changed template is for new runners; running ones end on their own",
    ),
    ("template.metadata.name", "every runner gets a name of its own"),
    ("template.metadata.generateName", "every runner gets a name of its own"),
    (
        "template.metadata.namespace",
        "kubernetes.namespace says where the runners live",
    ),
    (
        "template.metadata.ownerReferences",
        "runners belong to nobody, so that they outlive restarts",
    ),
    ("template.metadata.finalizers", "a finalizer would keep dead runners"),
    ("template.metadata.creationTimestamp", "the API server gives it"),
    (
        "template.spec.activeDeadlineSeconds",
        "it would end busy runners; timeouts.total ends them with a reason",
    ),
    (
        "template.spec.nodeName",
        "it goes round the scheduler; use nodeSelector or affinity",
    ),
    (
        "template.spec.restartPolicy",
        "always Never: a just-in-time runner runs once",
    ),
    (
        "template.spec.serviceAccountName",
        "that account is made and removed by the other controller; the listener's runners get no token unless a mode needs one",
    ),
    ("metadata", "the object's own bookkeeping"),
    ("status", "what the other controller saw last"),
    ("apiVersion", "names the kind of object"),
    ("kind", "names the kind of object"),
];

/// Why `path` is not carried over.
pub(super) fn reason(path: &str) -> &'static str {
    let plain: Vec<&str> = path
        .split('.')
        .map(|part| part.split('[').next().unwrap_or(part))
        .collect();
    let plain = plain.join(".");
    REASONS
        .iter()
        .filter(|(prefix, _)| plain.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map_or(
            "unknown here: nothing of the kind is known to this listener",
            |(_, reason)| reason,
        )
}
