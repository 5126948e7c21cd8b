//! One session per set, and how it ends.

use http::StatusCode;
use tokio::time::Instant;

use super::harness::{Session, secs, sim};

#[tokio::test(start_paused = true)]
async fn b1_a_second_session_conflicts_and_names_the_holder_even_for_the_same_owner() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    assert_eq!(session.body["ownerName"], "me");
    assert_eq!(session.body["runnerScaleSet"]["name"], "linux");
    assert_eq!(session.body["statistics"]["totalAssignedJobs"], 0);
    assert_eq!(session.id.len(), 36);
    for owner in ["other", "me"] {
        let message = admin
            .open(&set, owner)
            .await
            .refused(409, "RunnerScaleSetSessionConflictException");
        assert_eq!(
            message,
            "The runner scale set linux already has an active session for owner me."
        );
    }
    assert_eq!(admin.close(&session).await.status, 204);
    admin.session(&set).await;
    assert_eq!(sim.github.answered("open session", 409), 2);
    assert_eq!(sim.github.calls()["open session"], 4);
    admin
        .close(&session)
        .await
        .refused(404, "RunnerScaleSetSessionExpiredException");
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_session_blocks_its_set_for_60_to_92_seconds() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let mut seen = Vec::new();
    for n in 0..8 {
        let set = admin.create_set(&format!("linux-{n}")).await;
        admin.session(&set).await;
        let since = Instant::now();
        while admin.open(&set, "next").await.status == 409 {
            tokio::time::sleep(secs(1)).await;
        }
        let blocked = since.elapsed().as_secs();
        assert!((60..=93).contains(&blocked), "{blocked}");
        seen.push(blocked);
    }
    seen.dedup();
    assert!(seen.len() > 1, "drawn per session: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn polling_and_refreshing_keep_a_session_alive() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let (polled, refreshed) = (admin.create_set("a").await, admin.create_set("b").await);
    let (one, two) = (admin.session(&polled).await, admin.session(&refreshed).await);
    for _ in 0..5 {
        assert_eq!(one.poll(0, 0).await.status, 202);
        assert_eq!(admin.refresh(&two).await.status, 200);
    }
    admin
        .open(&polled, "x")
        .await
        .refused(409, "RunnerScaleSetSessionConflictException");
    admin
        .open(&refreshed, "x")
        .await
        .refused(409, "RunnerScaleSetSessionConflictException");
}

#[tokio::test(start_paused = true)]
async fn b2_an_expired_queue_token_answers_401_until_the_session_is_refreshed() {
    let sim = sim(|s| s.settings.queue_token_ttl = secs(120));
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    assert_eq!(session.poll(1, 0).await.status, 202);
    assert!(sim.github.expire_queue_token("linux"));
    session.poll(1, 0).await.refused(401, "VssUnauthorizedException");
    session.delete(1).await.refused(401, "VssUnauthorizedException");
    sim.queue("linux", 3);
    let body = admin.refresh(&session).await.expect(StatusCode::OK);
    assert_eq!(body["statistics"]["totalAvailableJobs"], 3, "statistics are fresh");
    assert_eq!(body["sessionId"], session.id);
    let renewed = Session::new(&sim, body);
    assert_ne!(renewed.auth, session.auth);
    assert_eq!(renewed.poll(1, 0).await.status, 200);
    // And by itself, when its time has come.
    for _ in 0..2 {
        admin.refresh(&renewed).await;
        tokio::time::sleep(secs(59)).await;
    }
    admin.refresh(&renewed).await;
    tokio::time::sleep(secs(10)).await;
    renewed.poll(1, 0).await.refused(401, "VssUnauthorizedException");
}

#[tokio::test(start_paused = true)]
async fn b2_a_lost_session_answers_404_to_poll_and_refresh() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let (held, ()) = tokio::join!(session.poll(1, 0), async {
        tokio::time::sleep(secs(5)).await;
        assert!(sim.github.lose_session("linux"));
    });
    held.refused(404, "RunnerScaleSetSessionExpiredException");
    session
        .poll(1, 0)
        .await
        .refused(404, "RunnerScaleSetSessionExpiredException");
    admin
        .refresh(&session)
        .await
        .refused(404, "RunnerScaleSetSessionExpiredException");
    admin.session(&set).await;
}
