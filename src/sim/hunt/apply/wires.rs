//! What befalls calls on their way to GitHub and GHARTS.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::json;

use super::{AtWork, Stage};
use crate::{
    http::Response,
    sim::{
        github::NewJobs,
        hunt::plan::{Fault, Peer},
        network::{Disturbance, Trouble},
        world::ORGANIZATION,
    },
};

/// A job that comes at a bad moment.
const MET_JOB: Duration = Duration::from_secs(30);

/// Every poll, and no other call about messages.
const POLL: &str = "GET *messages";

impl Stage<'_> {
    pub(super) fn on_the_way(&self, fault: &Fault) -> Option<AtWork> {
        let lost =
            |peer: Peer, call: &str, times: u32, trouble: Trouble| Some(self.disturb(peer, call, times, trouble));
        match fault {
            Fault::Latency { peer, call, ms } => lost(*peer, call, u32::MAX, Trouble::Late(Duration::from_millis(*ms))),
            Fault::ResetBefore { peer, call, times } => lost(*peer, call, *times, Trouble::LostBefore),
            Fault::ResetAfter { peer, call, times } => lost(*peer, call, *times, Trouble::LostAfter),
            Fault::ClientError {
                peer,
                call,
                status,
                times,
            }
            | Fault::ServerError {
                peer,
                call,
                status,
                times,
            } => {
                let body = json!({"message": "said something in between", "detail": "said something in between"});
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
                lost(*peer, call, *times, Trouble::Answered(status, body.to_string()))
            }
            Fault::TooManyRequests {
                peer,
                call,
                retry_after,
                times,
            } => {
                let mut answer = Response::new(Bytes::from_static(b"slow down"));
                *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                if let Some(seconds) = retry_after {
                    answer.headers_mut().insert(header::RETRY_AFTER, (*seconds).into());
                }
                lost(*peer, call, *times, Trouble::Replied(answer))
            }
            Fault::ForeignBody {
                peer,
                call,
                status,
                times,
            } => {
                let mut answer = Response::new(Bytes::from_static(b"<html><body>Please sign in</body></html>"));
                *answer.status_mut() = StatusCode::from_u16(*status).unwrap_or_default();
                let html = http::HeaderValue::from_static("text/html");
                answer.headers_mut().insert(header::CONTENT_TYPE, html);
                lost(*peer, call, *times, Trouble::Replied(answer))
            }
            Fault::TruncatedBody { peer, call, times } => {
                let half = Arc::new(|body: &[u8]| Bytes::copy_from_slice(&body[..body.len() / 2]));
                lost(*peer, call, *times, Trouble::Altered(half))
            }
            Fault::PollsEmpty { status, times } => {
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = StatusCode::from_u16(*status).unwrap_or(StatusCode::ACCEPTED);
                lost(Peer::GitHub, POLL, *times, Trouble::Replied(answer))
            }
            Fault::Hang { peer, call, times } => lost(*peer, call, *times, Trouble::Silence),
            Fault::JobMeets {
                peer,
                call,
                set,
                ms,
                times,
            } => {
                let (github, set) = (self.world.github.clone(), self.set(*set).to_owned());
                let comes = move |line: &str| {
                    // Where it is about a registration, one that its runner may take.
                    let agents = github.runners();
                    let about = line.rsplit_once("/agents/").map(|(_, id)| id);
                    let about = agents.iter().find(|agent| about == Some(agent.id.to_string().as_str()));
                    let sets = github.sets();
                    let about = about.and_then(|agent| sets.iter().find(|set| agent.set == Some(set.id)));
                    let set = about.map_or(set.as_str(), |set| &set.name);
                    let new = NewJobs::for_set(ORGANIZATION, set, 1).lasting(MET_JOB);
                    github.queue_jobs(&new);
                };
                lost(
                    *peer,
                    call,
                    *times,
                    Trouble::Meanwhile(Arc::new(comes), Duration::from_millis(*ms)),
                )
            }
            Fault::Absent { peer } => {
                let (network, authority) = (self.world.network.clone(), self.authority(*peer));
                let router = network.detach(&authority);
                let met = router.is_some();
                let end = move || {
                    if let Some(router) = router {
                        network.attach(&authority, router);
                    }
                };
                Some(AtWork::new(end, move || met))
            }
            _ => None,
        }
    }

    fn authority(&self, peer: Peer) -> String {
        let addresses = &self.world.services.addresses;
        let address = match peer {
            Peer::GitHub => &addresses.github,
            Peer::Gharts => &addresses.gharts,
        };
        address.split("://").nth(1).unwrap_or(address).to_owned()
    }

    fn disturb(&self, peer: Peer, call: &str, times: u32, trouble: Trouble) -> AtWork {
        let disturbance: Disturbance = self.world.network.disturb(&self.authority(peer), call, trouble);
        disturbance.times(times);
        let met = disturbance.clone();
        AtWork::new(move || disturbance.end(), move || met.met() > 0)
    }
}
