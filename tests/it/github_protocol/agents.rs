//! Registrations at the Actions service.

use http::StatusCode;
use serde_json::json;

use super::harness::{Sim, secs, sim};

#[tokio::test(start_paused = true)]
async fn b26_a_jit_configuration_registers_at_once_offline_and_a_name_is_taken_once() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let jit = admin.jit(&set, "r-1").await.expect(StatusCode::OK);
    assert_eq!(
        jit["runner"],
        json!({"id": jit["runner"]["id"], "name": "r-1", "runnerScaleSetId": set["id"]})
    );
    let blob = jit["encodedJITConfig"].as_str().unwrap();
    assert!((3500..5000).contains(&blob.len()), "about 4 KiB: {}", blob.len());
    assert_eq!(Sim::unpack(blob).id, jit["runner"]["id"].as_u64().unwrap());
    admin.jit(&set, "r-1").await.refused(409, "AgentExistsException");

    let agents = "distributedtask/pools/0/agents";
    let found = admin
        .call("GET", &format!("{agents}?agentName=r-1"), None)
        .await
        .expect(StatusCode::OK);
    assert_eq!(found["count"], 1);
    let one = admin
        .call("GET", &format!("{agents}/{}", jit["runner"]["id"]), None)
        .await;
    let one = one.expect(StatusCode::OK);
    assert_eq!(found["value"][0], one);
    for (key, value) in [
        ("status", json!("offline")),
        ("busy", json!(false)),
        ("ephemeral", json!(true)),
        ("labels", json!([])),
        ("runnerScaleSetId", set["id"].clone()),
        ("createdOn", json!("2026-03-01T12:00:00Z")),
    ] {
        assert_eq!(one[key], value, "{key}");
    }
    assert!(one["version"].is_string());
    let none = admin.call("GET", &format!("{agents}?agentName=r-2"), None).await;
    assert_eq!(none.expect(StatusCode::OK), json!({"count": 0, "value": []}));
}

#[tokio::test(start_paused = true)]
async fn b12_a_registration_is_removed_unless_its_runner_is_busy() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let jit = admin.jit(&set, "r-1").await.body;
    let path = format!("distributedtask/pools/0/agents/{}", jit["runner"]["id"]);
    let job = sim.queue("linux", 1).remove(0);
    session.next(1).await;
    sim.github.start_job(&job, "r-1").unwrap();
    admin
        .call("DELETE", &path, None)
        .await
        .refused(400, "JobStillRunningException");
    let other = admin.jit(&set, "r-2").await.body;
    let other = format!("distributedtask/pools/0/agents/{}", other["runner"]["id"]);
    assert_eq!(admin.call("DELETE", &other, None).await.status, 204);
    admin
        .call("DELETE", &other, None)
        .await
        .refused(404, "AgentNotFoundException");
    admin
        .call("GET", &other, None)
        .await
        .refused(404, "AgentNotFoundException");
}

#[tokio::test(start_paused = true)]
async fn an_offline_ephemeral_runner_is_cleared_after_a_day() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    admin.jit(&set, "never-started").await;
    let died = admin.connected(&set, "died").await;
    tokio::time::sleep(secs(24 * 3600 - 10)).await;
    assert_eq!(sim.github.runners().len(), 2);
    tokio::time::sleep(secs(20)).await;
    assert_eq!(sim.github.runners().len(), 1);
    assert_eq!(
        sim.runner(&died, "GET", "job", None).await.status,
        202,
        "it came back in time"
    );
    tokio::time::sleep(secs(24 * 3600 + 61)).await;
    assert!(sim.github.runners().is_empty());
}
