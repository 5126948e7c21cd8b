//! Several teams behind one GHARTS: what one of them is refused stops no other (B18, B19, B22).

use std::time::Duration;

use gharts_listener::sim::{
    gharts::Flavour,
    github::JobState,
    world::{Binding, Options, Provisioner, SetOptions},
};

use super::harness::{Running, jobs};

const OTHER: &str = "data";

/// `linux` is of the file's own team, `gpu` of another one.
fn two_teams(flavour: Flavour) -> Options {
    let set = |name: &str, team: Option<&str>| {
        let mut set = SetOptions::new(name, Provisioner::Gharts, 10);
        set.team = team.map(str::to_owned);
        if flavour != Flavour::SetAware {
            set.binding = Binding::LabelsAvailable;
        }
        set
    };
    Options {
        flavour,
        sets: vec![set("linux", None), set("gpu", Some(OTHER))],
        more_teams: vec![OTHER.to_owned()],
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn b22_each_set_asks_for_its_own_team() {
    for flavour in [Flavour::SetAware, Flavour::Team, Flavour::Seed] {
        let running = Running::start(two_teams(flavour)).await;
        running.world.services.gharts.set_quota(OTHER, Some(0));
        let linux = running.queue(&jobs("linux", 6)).await;
        let gpu = running.queue(&jobs("gpu", 4)).await;
        running.until_reason("gpu", "quota_exceeded").await;
        running.until_finished(&linux, Duration::from_secs(600)).await;
        assert_eq!(running.count(&gpu, JobState::Finished), 0, "{flavour:?}");
        assert!(running.reason("linux", "quota_exceeded").is_none());
        running.world.services.gharts.set_quota(OTHER, None);
        running.until_finished(&gpu, Duration::from_secs(600)).await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b18_a_team_that_is_deactivated_stops_its_own_sets_only() {
    for flavour in [Flavour::SetAware, Flavour::Team, Flavour::Seed] {
        let running = Running::start(two_teams(flavour)).await;
        let first = running.queue(&jobs("gpu", 1)).await;
        running.until_finished(&first, Duration::from_secs(300)).await;
        let gharts = &running.world.services.gharts;
        gharts.deactivate_team(OTHER, "moved to another cluster");
        let gpu = running.queue(&jobs("gpu", 2)).await;
        let linux = running.queue(&jobs("linux", 6)).await;
        running
            .until("a refusal", |_| {
                running
                    .said_of("gpu")
                    .is_some_and(|set| set.last_provision_error.is_some())
            })
            .await;
        running.until_finished(&linux, Duration::from_secs(600)).await;
        let said = running.said_of("gpu").unwrap();
        assert!(said.degraded, "{flavour:?}: {said:?}");
        // Today's versions refuse without the reason, and tell it where their teams are read.
        let words = said.last_provision_error.unwrap();
        assert!(words.contains("moved to another cluster"), "{flavour:?}: {words}");
        assert!(!running.said_of("linux").unwrap().degraded);
        gharts.reactivate_team(OTHER);
        running.until_finished(&gpu, Duration::from_secs(900)).await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b18_a_team_that_is_none_of_ours_is_a_reason_on_its_set() {
    let mut options = two_teams(Flavour::SetAware);
    options.sets[1].team = Some("strangers".to_owned());
    let running = Running::start(options).await;
    let linux = running.queue(&jobs("linux", 3)).await;
    let gpu = running.queue(&jobs("gpu", 1)).await;
    let reason = running.until_reason("gpu", "configuration").await;
    assert!(reason.message.contains("strangers"), "{}", reason.message);
    running.until_finished(&linux, Duration::from_secs(600)).await;
    let _ = running.world.github.cancel(&gpu[0].id);
    assert_eq!(running.end().await.counters.created(), 3);
}
