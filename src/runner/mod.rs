//! Pods and Secrets of runners: what they look like ([`manifest`]), what a pod tells ([`observe`]), what is said to
//! operators ([`events`]), the few calls and the watch that the daemon needs ([`cluster`]), and what runners leave
//! behind ([`leftovers`]).

pub mod cluster;
pub mod events;
pub mod leftovers;
pub mod manifest;
pub mod observe;

/// Labels and annotations on our pods. The prefix is ours alone: templates may not use it.
pub mod keys {
    pub const PREFIX: &str = "gharts-listener/";
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    pub const MANAGED_BY_VALUE: &str = "gharts-listener";
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    pub const COMPONENT_VALUE: &str = "runner";
    /// Label: slug of the set. Annotation: its full name.
    pub const SCALE_SET: &str = "gharts-listener/scale-set";
    pub const AGENT_ID: &str = "gharts-listener/agent-id";
    pub const GHARTS_ID: &str = "gharts-listener/gharts-runner-id";
    /// Of the template that the pod was made of.
    pub const TEMPLATE: &str = "gharts-listener/template-hash";
    /// `demand` or `spare`.
    pub const PURPOSE: &str = "gharts-listener/purpose";
    /// `set` or `labels`: how it meets its job, whatever the file says of its set later.
    pub const MEETS: &str = "gharts-listener/meets-jobs-by";
    /// Namespace and name of the Lease of the deployment that made it.
    pub const LEASE: &str = "gharts-listener/lease";
    /// `configUrl` of the set that it was made for.
    pub const GITHUB: &str = "gharts-listener/github";
    // Set when the runner becomes busy; ids as labels too, full values as annotations only.
    pub const JOB_ID: &str = "gharts-listener/job-id";
    pub const RUN_ID: &str = "gharts-listener/workflow-run-id";
    pub const REQUEST_ID: &str = "gharts-listener/request-id";
    pub const REPOSITORY: &str = "gharts-listener/repository";
    pub const JOB_NAME: &str = "gharts-listener/job-name";
    pub const WORKFLOW_REF: &str = "gharts-listener/workflow-ref";
    /// On a failed pod that is kept: the reason, as a label and an annotation; Kubernetes' own words; until when.
    pub const FAILED: &str = "gharts-listener/failed";
    pub const FAILED_MESSAGE: &str = "gharts-listener/failed-message";
    pub const KEPT_UNTIL: &str = "gharts-listener/kept-until";
    pub const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
    pub const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
    /// Key of the JIT configuration in a runner's Secret.
    pub const JIT_CONFIG: &str = "jitConfig";
}
