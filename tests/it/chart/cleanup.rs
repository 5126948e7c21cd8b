//! `cleanup` on a real API server, after a daemon that was killed at work, with the rights of the chart's own account.

use serde_json::{Value, json};

use super::world::{World, step};
use crate::killed::nothing_left;

const DAEMON: &str = "system:serviceaccount:gharts-listener:gharts-listener";

impl World {
    /// What the command says, and its exit code.
    fn cleanup(&self, arguments: &str) -> (String, Option<i32>) {
        let output = self
            .command(&format!("gharts-listener cleanup {arguments}"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).unwrap(), output.status.code())
    }
}

fn lines(said: &str, fate: &str) -> usize {
    said.lines().filter(|line| line.starts_with(fate)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn b56_after_a_kill_cleanup_needs_the_charts_rights_alone_waits_for_jobs_and_leaves_nothing() {
    let Some(mut world) = World::start("cleanup").await else {
        return;
    };
    world.queue(3, 20).await;
    let at_work = |state: &Value| state["jobs"]["running"] == 3;
    world.control.until("three jobs at work", at_work).await;
    let (said, code) = world.cleanup("");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("a daemon is at work") && said.contains("help: stop it first"),
        "{said}"
    );
    world.daemon.take().unwrap().kill();

    let (said, code) = world.cleanup("--dry-run");
    assert_eq!((code, lines(&said, "kept      runner set-1-")), (Some(0), 3), "{said}");
    let (said, code) = world.cleanup("nothing");
    assert_eq!(code, Some(64), "{said}");
    let ended = |state: &Value| state["jobs"] == json!({"finished": 3});
    world.control.until("the jobs' end", ended).await;
    let (said, code) = world.cleanup("--scale-sets");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lines(&said, "removed   runner set-1-"), 3, "{said}");
    assert_eq!(lines(&said, "removed   scale set set-1"), 1, "{said}");
    world.control.until("nothing left of any", nothing_left).await;
    let (said, code) = world.cleanup("--scale-sets");
    assert_eq!(
        (said.as_str(), code),
        ("nothing is left of this installation\n", Some(0))
    );

    let refused = world.cluster.audit(DAEMON).into_iter();
    let refused: Vec<Value> = refused.filter(|entry| entry["responseStatus"]["code"] == 403).collect();
    assert_eq!(refused, Vec::<Value>::new());
    world.does(step::UNINSTALL);
    assert_eq!(world.does(step::LIST), "");
    assert_eq!(world.cluster.everything(), Vec::<String>::new());
}
