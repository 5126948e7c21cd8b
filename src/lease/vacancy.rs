//! Whether anybody leads, asked from outside, without taking part.

use std::time::Duration;

use k8s_openapi::api::coordination::v1;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};

use super::{LeaseSetup, RETRY, Record};

const CALL: Duration = Duration::from_secs(15);
/// The label by which Helm knows what it made.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The Lease as it was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Vacancy {
    /// There is none.
    NoLease,
    /// Nobody holds it any more.
    Vacant(Box<Record>),
    /// This one does, and renews it.
    Held(String),
}

/// Looks for as long as the Lease lasts, where somebody holds it: only one that does not change is dead.
pub async fn look(setup: &LeaseSetup) -> Result<Vacancy, String> {
    let api: Api<v1::Lease> = Api::namespaced(setup.client.clone(), &setup.namespace);
    let Some(first) = get(&api, &setup.name).await? else {
        return Ok(Vacancy::NoLease);
    };
    if first.holder().is_none() {
        return Ok(Vacancy::Vacant(Box::new(first)));
    }
    let end = setup.clock.instant() + first.duration();
    while setup.clock.instant() < end {
        tokio::time::sleep(RETRY).await;
        let Some(now) = get(&api, &setup.name).await? else {
            return Ok(Vacancy::NoLease);
        };
        match now.holder() {
            Some(holder) if now.lives_on(&first) => return Ok(Vacancy::Held(holder.to_owned())),
            Some(_) => {}
            None => return Ok(Vacancy::Vacant(Box::new(now))),
        }
    }
    Ok(Vacancy::Vacant(Box::new(first)))
}

/// Whether it is part of a Helm release, and goes with that.
pub fn is_of_a_release(seen: &Record) -> bool {
    let labels = seen.object.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|maker| maker == "Helm")
}

/// Removes the Lease as it was seen; one that is gone is removed.
pub async fn remove(setup: &LeaseSetup, seen: &Record) -> Result<(), String> {
    let metadata = &seen.object.metadata;
    let api: Api<v1::Lease> = Api::namespaced(setup.client.clone(), &setup.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    match within(api.delete(&setup.name, &params)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn get(api: &Api<v1::Lease>, name: &str) -> Result<Option<Record>, String> {
    let found = within(api.get_opt(name)).await.map_err(|error| error.to_string())?;
    Ok(found.map(Record::from))
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let late = |_| kube::Error::Service(format!("no answer within {} s", CALL.as_secs()).into());
    tokio::time::timeout(CALL, call).await.map_err(late)?
}
