//! What dashboards read.

use super::*;

const SET_LABELS: SetLabels<'_> = SetLabels {
    enterprise: "",
    organization: "acme",
    repository: "",
    name: "linux",
    namespace: "runners",
};

#[test]
fn b40_dashboards_of_the_established_controller_find_their_names_and_labels() {
    let metrics = Metrics::new(false);
    metrics.statistics(
        &SET_LABELS,
        Jobs {
            assigned: 3,
            ..Jobs::default()
        },
    );
    metrics.bounds(&SET_LABELS, 1, 9);
    metrics.desired(&SET_LABELS, 4);
    let job = JobLabels {
        organization: "acme",
        repository: "app",
        job_name: "build",
        event_name: "push",
        ..JobLabels::default()
    };
    metrics.job_started(&job, Some(Duration::from_millis(2_900)));
    metrics.job_completed(&job, "succeeded", Some(Duration::from_secs(61)));
    let text = metrics.render();
    let set = r#"{enterprise="",name="linux",namespace="runners",organization="acme",repository=""}"#;
    for line in [
        format!("gha_assigned_jobs{set} 3"),
        format!("gha_min_runners{set} 1"),
        format!("gha_max_runners{set} 9"),
        format!("gha_desired_runners{set} 4"),
        r#"gha_started_jobs_total{enterprise="",event_name="push",job_name="",organization="acme",repository="app"} 1"#.to_owned(),
        r#"gha_completed_jobs_total{enterprise="",event_name="push",job_name="",job_result="succeeded",organization="acme",repository="app"} 1"#.to_owned(),
        r#"gha_job_startup_duration_seconds_sum{enterprise="",event_name="push",job_name="",organization="acme",repository="app"} 2"#.to_owned(),
        r#"gha_job_execution_duration_seconds_bucket{enterprise="",event_name="push",job_name="",job_result="succeeded",organization="acme",repository="app",le="70"} 1"#.to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn b40_the_seeds_metrics_carry_status_and_error_code() {
    let metrics = Metrics::new(false);
    metrics.provision_attempt("error", "QUOTA_EXCEEDED", Duration::from_millis(300));
    metrics.token_refreshed();
    let text = metrics.render();
    assert!(text.contains(r#"arc_gharts_provision_attempts_total{error_code="QUOTA_EXCEEDED",status="error"} 1"#));
    assert!(text.contains(r#"arc_gharts_provision_duration_seconds_count{status="error"} 1"#));
    assert!(text.contains("arc_gharts_token_refreshes_total 1"));
    assert!(text.contains(r#"gharts_listener_build_info{commit=""#) && text.contains(r#"",version=""#));
}

#[test]
fn reasons_and_states_that_end_do_not_linger() {
    let metrics = Metrics::new(false);
    metrics.reasons("linux", ["quota", "max_runners"]);
    metrics.reasons("linux", ["max_runners"]);
    metrics.runners("linux", [("idle", 2), ("busy", 1)]);
    metrics.runners("linux", [("idle", 1)]);
    let text = metrics.render();
    assert!(!text.contains(r#"reason="quota""#), "{text}");
    assert!(
        text.contains(r#"gharts_listener_runners{set="linux",state="busy"} 0"#),
        "{text}"
    );
}

#[test]
fn a_removed_set_leaves_no_series_and_its_neighbours_stay() {
    let metrics = Metrics::new(true);
    for name in ["linux", "linux-arm"] {
        let labels = SetLabels { name, ..SET_LABELS };
        metrics.statistics(&labels, Jobs::default());
        metrics.bounds(&labels, 0, 1);
        metrics.desired(&labels, 0);
        metrics.capacity(name, 1);
        metrics.runners(name, [("idle", 1)]);
        metrics.reasons(name, ["satisfied"]);
        metrics.notes(name, ["label_missing"]);
        metrics.set_recreated(name);
        metrics.failure(name, "idle");
        metrics.poll_age(name, Duration::from_secs(1));
        metrics.session_conflict(name);
        metrics.undecodable_message(name);
        metrics.orphan_removed(name, "pod");
        metrics.queue_time(name, Duration::from_secs(1));
        metrics.stage(name, "jit", Duration::from_secs(1));
    }
    metrics.remove_set("linux");
    let text = metrics.render();
    assert!(!text.contains(r#""linux""#), "{text}");
    assert!(text.contains(r#"set="linux-arm""#) && text.contains(r#"name="linux-arm""#));
}
