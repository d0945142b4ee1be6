//! `/system/namespaces` and `/system/namespace/{name}`.
//!
//! Clients name a namespace in the path, or leave the path's last part empty and name it in the body.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;

use super::body::MaybeJson;
use super::params::PathName;
use super::{Answer, Done, to_the_end};
use crate::gateway::error::ErrorResponse;
use control::fleet::{Fleet, FleetError};
use host::secrets::Secrets;
use model::function::{Invalid, NamespaceName};
use model::wire;

type Handles = (Arc<Fleet>, Secrets);

pub(super) fn routes(fleet: Arc<Fleet>, secrets: Secrets) -> Router {
    let one = || get(describe).post(create).put(update).delete(delete);
    Router::new()
        .route("/system/namespaces", get(list))
        .route("/system/namespace/", one())
        .route("/system/namespace/{name}", one())
        .with_state((fleet, secrets))
}

async fn list(State((fleet, _)): State<Handles>) -> axum::Json<Vec<String>> {
    axum::Json(fleet.namespaces().into_iter().map(|namespace| namespace.name).collect())
}

async fn describe(State((fleet, _)): State<Handles>, PathName(path): PathName) -> Answer<wire::Namespace> {
    let name = name(&path, "")?;
    let found = fleet.namespaces().into_iter().find(|known| known.name == name.as_str());
    Ok(axum::Json(found.ok_or(FleetError::NamespaceNotFound(name))?))
}

async fn create(
    State((fleet, _)): State<Handles>,
    PathName(path): PathName,
    MaybeJson(body): MaybeJson<wire::Namespace>,
) -> Done {
    let namespace = named(&path, body)?;
    to_the_end(async move { fleet.create_namespace(namespace).await }).await?;
    Ok(StatusCode::CREATED)
}

async fn update(
    State((fleet, _)): State<Handles>,
    PathName(path): PathName,
    MaybeJson(body): MaybeJson<wire::Namespace>,
) -> Done {
    let namespace = named(&path, body)?;
    to_the_end(async move { fleet.update_namespace(namespace).await }).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn delete(
    State((fleet, secrets)): State<Handles>,
    PathName(path): PathName,
    MaybeJson(body): MaybeJson<wire::Namespace>,
) -> Done {
    let name = name(&path, &body.unwrap_or_default().name)?;
    let held = secrets.list(name.clone()).await?;
    if !held.is_empty() {
        let names: Vec<_> = held.iter().map(|secret| secret.as_str()).collect();
        let reason = format!("it has secrets ({}); delete them first", names.join(", "));
        return Err(FleetError::NamespaceInUse { namespace: name, reason }.into());
    }
    to_the_end(async move {
        fleet.delete_namespace(&name).await?;
        secrets.forget_namespace(name).await?;
        Ok::<_, ErrorResponse>(StatusCode::ACCEPTED)
    })
    .await
}

/// The name in the path or, if it is empty, in the body.
fn name(in_path: &str, in_body: &str) -> Result<NamespaceName, Invalid> {
    if !in_path.is_empty() && !in_body.is_empty() && in_path != in_body {
        let reason = format!("is {in_path:?} in the path and {in_body:?} in the body; send one of them");
        return Err(Invalid::new("name", reason));
    }
    if in_path.is_empty() { in_body.parse() } else { in_path.parse() }
}

/// The namespace that a body describes.
fn named(path: &str, body: Option<wire::Namespace>) -> Result<wire::Namespace, Invalid> {
    let mut namespace = body.unwrap_or_default();
    namespace.name = name(path, &namespace.name)?.into();
    Ok(namespace)
}
