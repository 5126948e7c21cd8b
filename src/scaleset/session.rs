//! A scale set's one session and its message queue.
//!
//! [`Session`] is plain data: whoever polls owns it, and replaces it after a refresh. The `*_renewing`
//! calls do that in place: a refused queue token is refreshed once and the call repeated once.

use std::{fmt, time::Duration};

use http::{Method, StatusCode, header};
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

use super::{
    calls,
    connection::{CALL_DEADLINE, Call, Connection, bearer, decode, undecodable, user_agent},
    error::{About, Error, Missing},
    message::{self, Message},
    wire::{OpenedSession, RawList, ScaleSet, SessionAnswer, Statistics},
};
use crate::http::Response;

/// The service holds a poll for about 50 s, 88 s were seen once; beyond that the connection is dead.
pub const POLL_DEADLINE: Duration = Duration::from_secs(100);
const ACCEPT: &str = "application/json; api-version=6.0-preview";
const CAPACITY_HEADER: &str = "X-ScaleSetMaxCapacity";

/// The hold on a scale set's queue.
#[derive(Clone)]
pub struct Session {
    pub set_id: i64,
    pub id: String,
    pub owner: String,
    /// As of the opening or the last refresh.
    pub statistics: Option<Statistics>,
    pub scale_set: Option<ScaleSet>,
    queue_url: Url,
    token: SecretString,
}

impl fmt::Debug for Session {
    /// Without the queue's address, whose query the service may use as it likes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("set_id", &self.set_id)
            .field("id", &self.id)
            .field("owner", &self.owner)
            .field("statistics", &self.statistics)
            .finish_non_exhaustive()
    }
}

/// What came of the wish to acquire jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// These request ids are ours now; may be fewer than asked for.
    Jobs(Vec<i64>),
    /// This tenant assigns jobs by itself: nothing to acquire, no error.
    SelfAssigning,
}

impl Connection {
    /// Opens the scale set's one session. [`Error::Conflict`] names who holds it. One that is open and cannot be used,
    /// since the answer lacks something, is closed again: it would block its set for 60 to 92 s.
    pub async fn open_session(&self, set_id: i64, owner: &str) -> Result<Session, Error> {
        const OPERATION: &str = "open session";
        let body = json!({"ownerName": owner});
        let path = calls::sessions(set_id);
        let call = calls::send(
            OPERATION,
            About::NewSession,
            Method::POST,
            path,
            Some(body),
            Some(set_id),
        );
        let answer = self.call(call).await?;
        let read = read_session(OPERATION, set_id, &answer);
        if let (Err(_), Ok(opened)) = (&read, decode::<OpenedSession>(OPERATION, &answer)) {
            // Where that fails, too, GitHub ends it.
            let _ = self.close_session(set_id, &opened.session_id).await;
        }
        read
    }

    /// A new queue token and fresh statistics. [`Error::SessionLost`] when the service forgot the session.
    pub async fn refresh_session(&self, session: &Session) -> Result<Session, Error> {
        const OPERATION: &str = "refresh session";
        let path = calls::session(session.set_id, &session.id);
        let call = calls::send(
            OPERATION,
            About::Session,
            Method::PATCH,
            path,
            None,
            Some(session.set_id),
        );
        read_session(OPERATION, session.set_id, &self.call(call).await?)
    }

    /// Closes a session by its id, also one that somebody else opened and left behind. One that is not there
    /// (any more) counts as closed.
    pub async fn close_session(&self, set_id: i64, session_id: &str) -> Result<(), Error> {
        let path = calls::session(set_id, session_id);
        let call = calls::send(
            "close session",
            About::Session,
            Method::DELETE,
            path,
            None,
            Some(set_id),
        );
        match self.call(call).await {
            Ok(_)
            | Err(
                Error::SessionLost(_)
                | Error::NotFound {
                    what: Missing::ScaleSet,
                    ..
                },
            ) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One long poll; `None`: nothing happened. `max_capacity` bounds the jobs assigned in all, waiting and
    /// running. Safe to cancel: delivery is by cursor and delete.
    pub async fn poll(
        &self,
        session: &Session,
        last_message_id: Option<i64>,
        max_capacity: u32,
    ) -> Result<Option<Message>, Error> {
        const OPERATION: &str = "poll message queue";
        let mut url = session.queue_url.clone();
        if let Some(id) = last_message_id {
            add_query(&mut url, &format!("lastMessageId={id}"));
        }
        let request = http::Request::get(url.as_str())
            .header(header::AUTHORIZATION, bearer("Bearer", &session.token))
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, user_agent(Some(session.set_id)))
            .header(CAPACITY_HEADER, max_capacity)
            .body(bytes::Bytes::new());
        let answer = self.send(OPERATION, request, POLL_DEADLINE).await?;
        if answer.status() != StatusCode::OK {
            return self.successful(OPERATION, About::Queue, answer).map(|_nothing| None);
        }
        message::decode(answer.body()).map_err(|e| {
            let place = format!("no message (line {}, column {})", e.line(), e.column());
            undecodable(OPERATION, &answer, place)
        })
    }

    /// Acknowledges a message, after it was handled: one not deleted comes again.
    pub async fn delete_message(&self, session: &Session, message_id: i64) -> Result<(), Error> {
        const OPERATION: &str = "delete message";
        let mut url = session.queue_url.clone();
        url.set_path(&format!(
            "{}/{message_id}",
            session.queue_url.path().trim_end_matches('/')
        ));
        let request = http::Request::delete(url.as_str())
            .header(header::AUTHORIZATION, bearer("Bearer", &session.token))
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, user_agent(Some(session.set_id)))
            .body(bytes::Bytes::new());
        let answer = self.send(OPERATION, request, CALL_DEADLINE).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        self.successful(OPERATION, About::Queue, answer).map(drop)
    }

    /// Takes offered jobs (GHES). Ask for no more than the capacity allows.
    pub async fn acquire_jobs(&self, session: &Session, request_ids: &[i64]) -> Result<Acquired, Error> {
        const OPERATION: &str = "acquire jobs";
        if request_ids.is_empty() {
            return Ok(Acquired::Jobs(Vec::new()));
        }
        let path = calls::acquire(session.set_id);
        let call: Call<'_> = calls::send(
            OPERATION,
            About::Queue,
            Method::POST,
            path,
            Some(json!(request_ids)),
            Some(session.set_id),
        );
        match self.call_with_token(call, &session.token).await {
            Ok(answer) => {
                let list: RawList = decode(OPERATION, &answer)?;
                Ok(Acquired::Jobs(list.value.iter().filter_map(Value::as_i64).collect()))
            }
            Err(Error::SessionLost(details)) if details.status == StatusCode::NOT_FOUND.as_u16() => {
                Ok(Acquired::SelfAssigning)
            }
            Err(error) => Err(error),
        }
    }

    /// [`Self::poll`], with one refresh and one repetition when the queue token is refused.
    pub async fn poll_renewing(
        &self,
        session: &mut Session,
        last_message_id: Option<i64>,
        max_capacity: u32,
    ) -> Result<Option<Message>, Error> {
        match self.poll(session, last_message_id, max_capacity).await {
            Err(Error::QueueTokenRefused(_)) => {
                *session = self.refresh_session(session).await?;
                self.poll(session, last_message_id, max_capacity).await
            }
            other => other,
        }
    }

    /// [`Self::delete_message`], likewise.
    pub async fn delete_message_renewing(&self, session: &mut Session, message_id: i64) -> Result<(), Error> {
        match self.delete_message(session, message_id).await {
            Err(Error::QueueTokenRefused(_)) => {
                *session = self.refresh_session(session).await?;
                self.delete_message(session, message_id).await
            }
            other => other,
        }
    }

    /// [`Self::acquire_jobs`], likewise.
    pub async fn acquire_jobs_renewing(&self, session: &mut Session, request_ids: &[i64]) -> Result<Acquired, Error> {
        match self.acquire_jobs(session, request_ids).await {
            Err(Error::QueueTokenRefused(_)) => {
                *session = self.refresh_session(session).await?;
                self.acquire_jobs(session, request_ids).await
            }
            other => other,
        }
    }
}

fn read_session(operation: &'static str, set_id: i64, answer: &Response) -> Result<Session, Error> {
    let read: SessionAnswer = decode(operation, answer)?;
    let queue_url = Url::parse(&read.message_queue_url)
        .map_err(|e| undecodable(operation, answer, format!("messageQueueUrl is no URL: {e}")))?;
    Ok(Session {
        set_id,
        id: read.session_id,
        owner: read.owner_name,
        statistics: read
            .statistics
            .or_else(|| read.runner_scale_set.as_ref().and_then(|set| set.statistics)),
        scale_set: read.runner_scale_set,
        queue_url,
        token: read.message_queue_access_token.into(),
    })
}

/// Keeps the URL's own query to the letter.
fn add_query(url: &mut Url, pair: &str) {
    let query = match url.query() {
        Some(query) if !query.is_empty() => format!("{query}&{pair}"),
        _ => pair.to_owned(),
    };
    url.set_query(Some(&query));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_own_query_is_kept_to_the_letter() {
        for (url, expected) in [
            (
                "https://q.example/m?a=%2Fb&c",
                "https://q.example/m?a=%2Fb&c&lastMessageId=1",
            ),
            ("https://q.example/m", "https://q.example/m?lastMessageId=1"),
            ("https://q.example/m?", "https://q.example/m?lastMessageId=1"),
        ] {
            let mut url = Url::parse(url).unwrap();
            add_query(&mut url, "lastMessageId=1");
            assert_eq!(url.as_str(), expected);
        }
    }
}
