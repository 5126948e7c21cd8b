//! Runner processes: the simulator's own endpoint, as the fleet uses it.

use gharts_listener::sim::github::{AssignedJobsRunOn, JobState, NewJobs, Violation};
use http::StatusCode;
use serde_json::json;

use super::harness::{API, PAT, Runner, Sim, secs, sim};

async fn ordinary(sim: &Sim, name: &str, labels: &[&str]) -> Runner {
    let body = json!({"name": name, "runner_group_id": 1, "labels": labels});
    let url = format!("{API}/orgs/acme/actions/runners/generate-jitconfig");
    let jit = sim.call("POST", &url, &format!("Bearer {PAT}"), Some(body)).await;
    let runner = Sim::unpack(jit.body["encoded_jit_config"].as_str().unwrap());
    assert_eq!(sim.runner(&runner, "POST", "connect", None).await.status, 200);
    runner
}

#[tokio::test(start_paused = true)]
async fn a_runner_connects_gets_an_assigned_job_runs_it_and_is_deregistered() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let runner = admin.connected(&set, "r-1").await;
    let jobs = NewJobs::for_set("acme", "linux", 1).lasting(secs(150)).exiting(3);
    let (work, message) = tokio::join!(sim.runner(&runner, "GET", "job", None), async {
        tokio::time::sleep(secs(5)).await;
        assert_eq!(sim.github.set("linux").unwrap().statistics.idle_runners, 1);
        sim.github.queue_jobs(&jobs);
        tokio::time::sleep(secs(5)).await;
        session.next(1).await
    });
    assert_eq!(message.kinds(), ["JobAssigned", "JobStarted"]);
    assert_eq!(
        (&message.entries[1]["runnerId"], &message.entries[1]["runnerName"]),
        (&json!(runner.id), &json!("r-1"))
    );
    assert_eq!(
        (message.count("totalRunningJobs"), message.count("totalBusyRunners")),
        (1, 1)
    );
    assert_eq!(
        (
            message.count("totalIdleRunners"),
            message.count("totalRegisteredRunners")
        ),
        (0, 1)
    );
    let work = work.expect(StatusCode::OK);
    assert_eq!(
        (&work["durationSeconds"], &work["exitCode"]),
        (&json!(150.0), &json!(3))
    );
    let job = work["jobId"].as_str().unwrap().to_owned();
    let again = sim.runner(&runner, "GET", "job", None).await.expect(StatusCode::OK);
    assert_eq!(again["jobId"], job, "asked again: the same job");

    tokio::time::sleep(secs(60)).await;
    let renewed = sim.runner(&runner, "POST", &format!("job/{job}/renew"), None).await;
    assert!(renewed.expect(StatusCode::OK)["lockedUntil"].is_string());
    let end = Some(json!({"result": "failed"}));
    let done = sim.runner(&runner, "POST", &format!("job/{job}/finish"), end).await;
    assert_eq!(done.status, 200);
    let message = session.next(1).await;
    assert_eq!(message.kinds(), ["JobCompleted"]);
    assert_eq!(message.entries[0]["result"], "failed");
    assert_eq!(message.count("totalRegisteredRunners"), 0);
    assert_eq!(sim.runner(&runner, "GET", "job", None).await.status, 404);
    assert_eq!(sim.github.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn b32_a_jit_configuration_is_good_for_one_runner_process() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let runner = admin.connected(&set, "r-1").await;
    assert_eq!(sim.runner(&runner, "POST", "connect", None).await.status, 409);
    let twice = Violation::JitUsedTwice {
        runner: "r-1".to_owned(),
    };
    assert_eq!(sim.github.violations(), std::slice::from_ref(&twice));
    assert!(sim.github.remove_runner("r-1"));
    assert_eq!(sim.runner(&runner, "POST", "connect", None).await.status, 404);
    assert_eq!(
        sim.github.violations(),
        [twice.clone(), twice],
        "also when its registration is gone"
    );
    let forged = Runner {
        auth: "Bearer guess".to_owned(),
        ..admin.connected(&set, "r-2").await
    };
    assert_eq!(sim.runner(&forged, "GET", "job", None).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_removed_registration_turns_its_runner_away_also_while_it_waits() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let runner = admin.connected(&set, "r-1").await;
    let path = format!("distributedtask/pools/0/agents/{}", runner.id);
    let (waiting, removed) = tokio::join!(sim.runner(&runner, "GET", "job", None), async {
        tokio::time::sleep(secs(3)).await;
        admin.call("DELETE", &path, None).await.status
    });
    assert_eq!((waiting.status, removed), (404, 204));
    let jit = admin.jit(&set, "r-2").await.body;
    let never = Sim::unpack(jit["encodedJITConfig"].as_str().unwrap());
    assert_eq!(never.name, "r-2");
    admin
        .call("DELETE", &format!("distributedtask/pools/0/agents/{}", never.id), None)
        .await;
    assert_eq!(sim.runner(&never, "POST", "connect", None).await.status, 404);
    assert_eq!(sim.github.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_runner_is_online_while_it_polls_and_offline_a_minute_after() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let runner = admin.connected(&set, "r-1").await;
    for _ in 0..3 {
        assert_eq!(sim.runner(&runner, "GET", "job", None).await.status, 202);
        assert!(sim.github.runners()[0].online);
    }
    tokio::time::sleep(secs(59)).await;
    assert!(sim.github.runners()[0].online);
    tokio::time::sleep(secs(2)).await;
    assert!(!sim.github.runners()[0].online);
    sim.queue("linux", 1);
    admin.session(&set).await.next(1).await;
    assert_eq!(
        sim.github.jobs()[0].state,
        JobState::Assigned,
        "a dead runner gets no job"
    );
    let work = sim.runner(&runner, "GET", "job", None).await;
    assert_eq!(work.status, 200, "back again, it gets the job that waits");
    assert_eq!(sim.runner(&runner, "POST", "disconnect", None).await.status, 204);
    assert!(!sim.github.runners()[0].online);
}

#[tokio::test(start_paused = true)]
async fn b32_a_job_whose_runner_stops_renewing_fails_after_ten_minutes() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let runner = admin.connected(&set, "r-1").await;
    let job = sim.queue("linux", 1).remove(0);
    session.next(1).await;
    sim.runner(&runner, "GET", "job", None).await.expect(StatusCode::OK);
    tokio::time::sleep(secs(300)).await;
    let renew = format!("job/{job}/renew");
    assert_eq!(sim.runner(&runner, "POST", &renew, None).await.status, 200);
    admin.refresh(&session).await;
    let since = sim.clock.now();
    sim.github
        .until(|g| g.job(&job).unwrap().state == JobState::Finished)
        .await;
    assert_eq!(sim.clock.since(since), secs(600));
    let view = sim.github.job(&job).unwrap();
    assert_eq!((view.result.as_deref(), view.runner_lost), (Some("failed"), true));
    assert_eq!(sim.runner(&runner, "POST", &renew, None).await.status, 404);
    let session = admin.session(&set).await;
    let message = session.next(1).await;
    assert_eq!(message.kinds(), ["JobStarted", "JobCompleted"]);
    assert_eq!(message.entries[1]["runnerName"], "r-1");
    // The registration stays behind, free to be removed.
    let path = format!("distributedtask/pools/0/agents/{}", runner.id);
    assert_eq!(admin.call("DELETE", &path, None).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn any_idle_runner_of_the_set_may_get_any_job_of_the_set() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let (one, two) = (admin.create_set("one").await, admin.create_set("two").await);
    let session = admin.session(&one).await;
    let mut runners = Vec::new();
    for n in 0..4 {
        runners.push(admin.connected(&one, &format!("one-{n}")).await);
    }
    runners.push(admin.connected(&two, "two-0").await);
    let waiting = futures::future::join_all(runners.iter().map(|r| sim.runner(r, "GET", "job", None)));
    let (replies, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(secs(1)).await;
        sim.queue("one", 5);
        session.next(5).await;
    });
    let statuses: Vec<u16> = replies.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 202], "the other set's runner gets none");
    assert_eq!(sim.github.set("one").unwrap().statistics.running, 4);
}

#[tokio::test(start_paused = true)]
async fn b43_an_ordinary_runner_takes_unassigned_jobs_with_its_labels_past_the_set() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let runner = ordinary(&sim, "r-1", &["linux", "x64"]).await;
    let other = ordinary(&sim, "r-2", &["windows"]).await;
    let (got, nothing, ()) = tokio::join!(
        sim.runner(&runner, "GET", "job", None),
        sim.runner(&other, "GET", "job", None),
        async {
            tokio::time::sleep(secs(1)).await;
            sim.queue("linux", 1);
        }
    );
    assert_eq!((got.status, nothing.status), (200, 202));
    let view = sim.github.set("linux").unwrap();
    assert_eq!(
        (view.statistics.available, view.statistics.running, view.undelivered),
        (0, 0, 0)
    );
    assert_eq!(
        admin.session(&set).await.poll(1, 0).await.status,
        202,
        "the set hears nothing of it"
    );
}

#[tokio::test(start_paused = true)]
async fn b43_an_assigned_job_runs_on_an_ordinary_runner_only_in_the_world_that_permits_it() {
    for (world, status) in [
        (AssignedJobsRunOn::SetRunners, 202),
        (AssignedJobsRunOn::MatchingLabels, 200),
    ] {
        let sim = sim(|s| s.settings.assigned_jobs_run_on = world);
        let admin = sim.admin().await;
        let set = admin.create_set("linux").await;
        let session = admin.session(&set).await;
        sim.queue("linux", 1);
        session.next(1).await;
        let runner = ordinary(&sim, "r-1", &["linux"]).await;
        assert_eq!(sim.runner(&runner, "GET", "job", None).await.status, status);
        if status == 200 {
            let message = session.next(1).await;
            assert_eq!(message.kinds(), ["JobStarted"]);
            assert_eq!(message.entries[0]["runnerName"], "r-1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_ordinary_runner_takes_a_job_that_no_set_serves() {
    let sim = sim(|_| ());
    sim.github.queue_jobs(&NewJobs::with_labels("acme", &["arm"], 1));
    let runner = ordinary(&sim, "r-1", &["arm", "linux"]).await;
    assert_eq!(sim.runner(&runner, "GET", "job", None).await.status, 200);
    assert_eq!(sim.github.jobs()[0].runner.as_deref(), Some("r-1"));
}

#[tokio::test(start_paused = true)]
async fn b8_three_hundred_sets_poll_and_thousands_of_jobs_end() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let mut sets = Vec::new();
    for n in 0..300 {
        sets.push(admin.create_set(&format!("set-{n}")).await);
    }
    let one_set = |n: usize| {
        let (sim, admin, set) = (&sim, &admin, &sets[n]);
        async move {
            let session = admin.session(set).await;
            sim.queue(&format!("set-{n}"), 10);
            let mut done = 0;
            while done < 10 {
                let message = session.next(10).await;
                for entry in &message.entries {
                    let job = entry["jobId"].as_str().unwrap();
                    match entry["messageType"].as_str().unwrap() {
                        "JobAssigned" => sim.github.start_job(job, &format!("r-{job}")).unwrap(),
                        "JobStarted" => sim.github.finish_job(job, "succeeded").unwrap(),
                        _ => done += 1,
                    }
                }
            }
        }
    };
    futures::future::join_all((0..300).map(one_set)).await;
    assert_eq!(sim.github.unfinished_jobs(), 0);
    assert!(sim.github.sets().iter().all(|s| s.statistics.assigned == 0));
    sim.tasks.stop();
    sim.tasks.finished().await;
}
