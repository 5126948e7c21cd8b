//! Groups and scale sets.

use gharts_listener::sim::github::{JobState, Violation};
use http::StatusCode;
use serde_json::{Value, json};

use super::harness::sim;

#[tokio::test(start_paused = true)]
async fn groups_are_found_by_name_with_and_without_a_slash() {
    let sim = sim(|s| s.runner_groups = vec!["big machines".to_owned()]);
    let admin = sim.admin().await;
    let reply = admin.call("GET", "runtime/runnergroups/?groupName=default", None).await;
    assert!(reply.bom, "this answer begins with a byte order mark by default");
    let body = reply.expect(StatusCode::OK);
    assert_eq!(body["count"], 1);
    assert_eq!(
        body["value"][0],
        json!({"id": 1, "name": "Default", "size": 0, "isDefaultGroup": true})
    );
    let body = admin
        .call("GET", "runtime/runnergroups?groupName=big%20machines", None)
        .await;
    assert_eq!(body.expect(StatusCode::OK)["value"][0]["id"], 2);
    let body = admin.call("GET", "runtime/runnergroups/?groupName=none", None).await;
    assert_eq!(body.expect(StatusCode::OK), json!({"count": 0, "value": []}));
}

#[tokio::test(start_paused = true)]
async fn a_set_is_created_once_and_found_by_name_and_id() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let by_name = "runtime/runnerscalesets?runnerGroupId=1&name=linux";
    assert_eq!(
        admin.call("GET", by_name, None).await.expect(StatusCode::OK)["count"],
        0
    );
    let set = admin.create_set("linux").await;
    let expected = json!({
        "id": set["id"], "name": "linux", "runnerGroupId": 1, "runnerGroupName": "Default",
        "labels": [{"type": "System", "name": "linux"}], "RunnerSetting": {"disableUpdate": true},
        "createdOn": "2026-03-01T12:00:00Z", "status": "offline",
        "runnerJitConfigUrl": format!("{}_apis/runtime/runnerscalesets/{}/generatejitconfig", admin.url, set["id"]),
        "statistics": {
            "totalAvailableJobs": 0, "totalAcquiredJobs": 0, "totalAssignedJobs": 0, "totalRunningJobs": 0,
            "totalRegisteredRunners": 0, "totalBusyRunners": 0, "totalIdleRunners": 0,
        },
    });
    assert_eq!(set, expected);
    let found = admin.call("GET", by_name, None).await.expect(StatusCode::OK);
    assert_eq!(
        (found["count"].clone(), found["value"][0].clone()),
        (json!(1), expected.clone())
    );
    let path = format!("runtime/runnerscalesets/{}", set["id"]);
    assert_eq!(admin.call("GET", &path, None).await.expect(StatusCode::OK), expected);
    let list = admin
        .call("GET", "runtime/runnerscalesets", None)
        .await
        .expect(StatusCode::OK);
    assert_eq!(list["value"][0]["statistics"]["totalAssignedJobs"], 0);

    let again = admin.call(
        "POST",
        "runtime/runnerscalesets",
        Some(json!({"name": "linux", "runnerGroupId": 1})),
    );
    again.await.refused(400, "RunnerScaleSetExistsException");
    let body = json!({"name": "x", "runnerGroupId": 77});
    let reply = admin.call("POST", "runtime/runnerscalesets", Some(body)).await;
    reply.refused(404, "RunnerGroupNotFoundException");
}

fn labels(names: &[&str]) -> Value {
    names.iter().map(|n| json!({"type": "System", "name": n})).collect()
}

#[tokio::test(start_paused = true)]
async fn b25_patch_ignores_labels_in_silence_and_put_stores_them() {
    let sim = sim(|s| s.runner_groups = vec!["big".to_owned()]);
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let path = format!("runtime/runnerscalesets/{}", set["id"]);
    let body = json!({"name": "linux2", "runnerGroupId": 2, "labels": labels(&["a", "b"])});
    let patched = admin
        .call("PATCH", &path, Some(body.clone()))
        .await
        .expect(StatusCode::OK);
    assert_eq!(patched["name"], "linux2");
    assert_eq!(patched["runnerGroupName"], "big");
    assert_eq!(patched["labels"], labels(&["linux"]));
    let put = admin.call("PUT", &path, Some(body)).await.expect(StatusCode::OK);
    assert_eq!(put["labels"], labels(&["a", "b"]));
    let read = admin.call("GET", &path, None).await.expect(StatusCode::OK);
    assert_eq!(read["labels"], labels(&["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn b25_an_older_service_drops_all_labels_but_one() {
    let sim = sim(|s| s.settings.multi_label = false);
    let admin = sim.admin().await;
    let body = json!({"name": "linux", "runnerGroupId": 1, "labels": labels(&["a", "b"])});
    let set = admin
        .call("POST", "runtime/runnerscalesets", Some(body))
        .await
        .expect(StatusCode::OK);
    assert_eq!(set["labels"], labels(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_set_is_not_found_by_any_call() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let path = format!("runtime/runnerscalesets/{}", set["id"]);
    assert_eq!(admin.call("DELETE", &path, None).await.status, 204);
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("PATCH", format!("{path}/sessions/{}", session.id)),
        ("GET", format!("{path}/acquirablejobs")),
    ] {
        let message = admin
            .call(method, &path, None)
            .await
            .refused(404, "RunnerScaleSetNotFoundException");
        assert_eq!(
            message,
            format!("No runner scale set found with identifier {}.", set["id"])
        );
    }
    admin
        .open(&set, "me")
        .await
        .refused(404, "RunnerScaleSetNotFoundException");
    admin
        .jit(&set, "r")
        .await
        .refused(404, "RunnerScaleSetNotFoundException");
    assert_eq!(session.poll(1, 0).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_for_a_set_that_comes_later() {
    let sim = sim(|_| ());
    sim.queue("linux", 2);
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    assert_eq!(set["statistics"]["totalAvailableJobs"], 2);
}

#[tokio::test(start_paused = true)]
async fn b2_the_jobs_of_a_set_that_is_gone_wait_for_the_next_of_its_name() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let runner = admin.connected(&set, "r-1").await;
    let jobs = sim.queue("linux", 3);
    session.next(2).await;
    assert_eq!(sim.runner(&runner, "GET", "job", None).await.status, 200);
    assert!(sim.github.remove_set("linux"), "as GitHub does after a week");
    session
        .poll(2, 0)
        .await
        .refused(404, "RunnerScaleSetSessionExpiredException");
    assert_eq!(sim.runner(&runner, "GET", "job", None).await.status, 404);
    let states: Vec<JobState> = jobs.iter().map(|j| sim.github.job(j).unwrap().state).collect();
    assert_eq!(states, [JobState::Finished, JobState::Queued, JobState::Queued]);
    let set = admin.create_set("linux").await;
    assert_eq!(set["statistics"]["totalAvailableJobs"], 2);
    assert_eq!(admin.session(&set).await.next(5).await.kinds(), ["JobAssigned"; 2]);
    assert_eq!(sim.github.violations(), []);
    admin
        .call("DELETE", &format!("runtime/runnerscalesets/{}", set["id"]), None)
        .await;
    let deleted = Violation::SetDeletedWithJobs {
        set: "linux".to_owned(),
        jobs: 2,
    };
    assert_eq!(
        sim.github.violations(),
        [deleted],
        "a client that deletes such a set is told on"
    );
}
