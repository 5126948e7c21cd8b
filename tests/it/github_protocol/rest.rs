//! The REST endpoints that GHARTS uses: ordinary runners, in no set.

use http::StatusCode;
use serde_json::json;

use super::harness::{API, PAT, Sim, sim};

const RUNNERS: &str = "orgs/acme/actions/runners";

async fn jit(sim: &Sim, name: &str, group: u64) -> super::harness::Reply {
    let body = json!({"name": name, "runner_group_id": group, "labels": ["linux", "x64"], "work_folder": "_work"});
    let url = format!("{API}/{RUNNERS}/generate-jitconfig");
    sim.call("POST", &url, &format!("Bearer {PAT}"), Some(body)).await
}

#[tokio::test(start_paused = true)]
async fn b26_a_rest_jit_configuration_makes_an_ordinary_labelled_runner_of_a_fresh_name() {
    let sim = sim(|_| ());
    let made = jit(&sim, "r-1", 1).await;
    assert!(made.headers.contains_key("x-ratelimit-limit"));
    let made = made.expect(StatusCode::CREATED);
    assert_eq!(made["runner"]["name"], "r-1");
    assert_eq!(made["runner"]["status"], "offline");
    assert_eq!(made["runner"]["labels"][0]["name"], "linux");
    Sim::unpack(made["encoded_jit_config"].as_str().unwrap());
    let taken = jit(&sim, "r-1", 1).await.expect(StatusCode::CONFLICT);
    assert_eq!(
        taken["message"],
        "Already exists - A runner with the name r-1 already exists."
    );
    assert_eq!(jit(&sim, "r-2", 99).await.status, 404);

    let admin = sim.admin().await;
    let agents = admin
        .call("GET", "distributedtask/pools/0/agents", None)
        .await
        .expect(StatusCode::OK);
    assert!(agents["value"][0].get("runnerScaleSetId").is_none());
    assert_eq!(agents["value"][0]["labels"][1]["name"], "x64");
}

#[tokio::test(start_paused = true)]
async fn runners_are_listed_in_pages() {
    let sim = sim(|_| ());
    for n in 0..35 {
        jit(&sim, &format!("r-{n}"), 1).await.expect(StatusCode::CREATED);
    }
    let auth = format!("Bearer {PAT}");
    for (query, length) in [
        ("", 30),
        ("?page=2", 5),
        ("?per_page=100", 35),
        ("?per_page=10&page=4", 5),
    ] {
        let reply = sim.call("GET", &format!("{API}/{RUNNERS}{query}"), &auth, None).await;
        let body = reply.expect(StatusCode::OK);
        assert_eq!(body["total_count"], 35);
        assert_eq!(body["runners"].as_array().unwrap().len(), length, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn b12_a_runner_is_deleted_by_id_unless_busy() {
    let sim = sim(|_| ());
    let auth = format!("Bearer {PAT}");
    let id = jit(&sim, "r-1", 1).await.body["runner"]["id"].clone();
    let url = format!("{API}/{RUNNERS}/{id}");
    let job = sim.queue("linux", 1).remove(0);
    sim.github.start_job(&job, "r-1").unwrap();
    let busy = sim
        .call("DELETE", &url, &auth, None)
        .await
        .expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert!(busy["message"].as_str().unwrap().contains("still running a job"));
    let id = jit(&sim, "r-2", 1).await.body["runner"]["id"].clone();
    let url = format!("{API}/{RUNNERS}/{id}");
    assert_eq!(sim.call("GET", &url, &auth, None).await.status, 200);
    assert_eq!(sim.call("DELETE", &url, &auth, None).await.status, 204);
    assert_eq!(sim.call("DELETE", &url, &auth, None).await.status, 404);
}
