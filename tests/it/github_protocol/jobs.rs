//! A job's ways back and ends.

use gharts_listener::sim::github::{JobError, JobState, NewJobs};
use serde_json::json;

use super::harness::{secs, sim};

#[tokio::test(start_paused = true)]
async fn b4_a_job_that_no_runner_takes_is_taken_back_and_queued_again_three_times() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let job = sim.queue("linux", 1).remove(0);
    let mut kinds = Vec::new();
    while sim.github.job(&job).unwrap().state != JobState::Finished {
        let reply = session.poll(1, 0).await;
        if reply.status == 200 {
            let message = super::harness::Message::new(reply.body);
            session.delete(message.id).await;
            for entry in &message.entries {
                assert_eq!(entry["jobId"], job);
                if entry["messageType"] == "JobCompleted" {
                    assert_eq!(
                        (&entry["result"], &entry["runnerName"]),
                        (&json!("canceled"), &json!(""))
                    );
                    assert_eq!(entry["runnerId"], 0);
                }
            }
            kinds.extend(message.kinds().into_iter().map(str::to_owned));
        }
    }
    let view = sim.github.job(&job).unwrap();
    assert_eq!((view.attempts, view.result.as_deref()), (4, Some("canceled")));
    assert_eq!(kinds.iter().filter(|k| *k == "JobAssigned").count(), 4);
    let lived = view.finished.unwrap().duration_since(view.queued).as_secs();
    assert!(
        (1260..1270).contains(&lived),
        "four times 300 s, and 10 + 20 + 30 s between: {lived}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_completes_with_an_empty_runner_only_where_it_was_heard_of() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let jobs = sim.queue("linux", 2);
    session.next(1).await;
    sim.github.cancel(&jobs[1]).unwrap();
    assert_eq!(sim.github.set("linux").unwrap().undelivered, 0, "nobody was told of it");
    sim.github.cancel(&jobs[0]).unwrap();
    let message = session.next(1).await;
    assert_eq!(message.kinds(), ["JobCompleted"]);
    let entry = &message.entries[0];
    assert_eq!(
        (&entry["result"], &entry["runnerId"], &entry["runnerName"]),
        (&json!("canceled"), &json!(0), &json!(""))
    );
    assert_eq!(message.count("totalAssignedJobs"), 0);
    assert!(sim.github.cancel(&jobs[0]).is_err(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn b14_a_dropped_assignment_vanishes_without_a_message() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let jobs = sim.queue("linux", 1);
    let early = sim.github.drop_assignment(&jobs[0]);
    assert_eq!(early, Err(JobError::WrongState(JobState::Queued)));
    assert_eq!(sim.github.drop_assignment("none"), Err(JobError::Unknown));
    session.next(1).await;
    sim.github.drop_assignment(&jobs[0]).unwrap();
    assert_eq!(sim.github.set("linux").unwrap().statistics.assigned, 0);
    assert_eq!(session.poll(1, 0).await.status, 202);
    assert_eq!(sim.github.job(&jobs[0]).unwrap().result.as_deref(), Some("dropped"));
}

#[tokio::test(start_paused = true)]
async fn started_and_finished_by_hand_with_times_and_runner() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let job = sim.queue("linux", 1).remove(0);
    session.next(1).await;
    let jit = admin.jit(&set, "r-1").await.body;
    tokio::time::sleep(secs(10)).await;
    sim.github.start_job(&job, "r-1").unwrap();
    tokio::time::sleep(secs(20)).await;
    sim.github.finish_job(&job, "failed").unwrap();
    let message = session.next(1).await;
    assert_eq!(message.kinds(), ["JobStarted", "JobCompleted"]);
    for entry in &message.entries {
        assert_eq!(
            (&entry["runnerId"], &entry["runnerName"]),
            (&jit["runner"]["id"], &json!("r-1"))
        );
        assert_eq!(entry["runnerAssignTime"], "2026-03-01T12:00:10Z");
    }
    assert_eq!(message.entries[1]["result"], "failed");
    assert_eq!(message.entries[1]["finishTime"], "2026-03-01T12:00:30Z");
    assert!(sim.github.runners().is_empty(), "the ephemeral runner is deregistered");
    let view = sim.github.job(&job).unwrap();
    assert_eq!((view.state, view.runner.as_deref()), (JobState::Finished, Some("r-1")));
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_to_the_set_that_has_all_its_labels_or_waits_for_one() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    admin.create_set("small").await;
    let labels = json!([{"type": "System", "name": "Linux"}, {"type": "System", "name": "gpu"}]);
    let body = json!({"name": "big", "runnerGroupId": 1, "labels": labels});
    admin.call("POST", "runtime/runnerscalesets", Some(body)).await;
    sim.github
        .queue_jobs(&NewJobs::with_labels("acme", &["gpu", "linux"], 2));
    let nowhere = sim.github.queue_jobs(&NewJobs::with_labels("acme", &["gpu", "arm"], 1));
    assert_eq!(sim.github.set("big").unwrap().statistics.available, 2);
    assert_eq!(sim.github.set("small").unwrap().statistics.available, 0);
    let view = sim.github.job(&nowhere[0].id).unwrap();
    assert_eq!((view.state, view.set), (JobState::Queued, None));
}
