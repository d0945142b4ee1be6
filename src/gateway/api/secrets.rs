//! `/system/secrets`: names go out, values only come in, or go out sealed.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::body::Json;
use super::params::{self, Params};
use super::{Answer, Done, to_the_end};
use crate::gateway::error::ErrorResponse;
use age::FileKey;
use control::fleet::Fleet;
use host::secrets::{SecretError, Secrets};
use model::function::{Invalid, NamespaceName, SecretName};
use model::wire;

/// The largest body in bytes: the largest value in base64, and some.
const BODY: usize = 2 << 20;

#[derive(Clone)]
struct Handles {
    fleet: Arc<Fleet>,
    secrets: Secrets,
}

pub(super) fn routes(fleet: Arc<Fleet>, secrets: Secrets) -> Router {
    Router::new()
        .route("/system/secrets", get(list).post(create).put(update).delete(delete))
        .route("/system/secrets/export", post(export))
        .with_state(Handles { fleet, secrets })
}

impl Handles {
    /// The namespace that a request means, which must be there.
    fn namespace(&self, params: &Params, in_body: Option<&str>) -> Result<NamespaceName, ErrorResponse> {
        let namespace = params.namespace_or_default(in_body)?;
        params::known(&self.fleet, &namespace)?;
        Ok(namespace)
    }

    /// Deployed functions that need the secret the next time a replica of them starts.
    fn users(&self, namespace: &NamespaceName, secret: &SecretName) -> Vec<String> {
        let functions = self.fleet.directory().all();
        let using = functions
            .iter()
            .filter(|entry| entry.key.namespace == *namespace && entry.peek().spec.secrets.contains(secret));
        using.map(|entry| entry.key.name.to_string()).collect()
    }
}

async fn list(State(handles): State<Handles>, params: Params) -> Answer<Vec<wire::Secret>> {
    let namespace = handles.namespace(&params, None)?;
    let names = handles.secrets.list(namespace.clone()).await?;
    let secret = |name: SecretName| wire::Secret {
        name: name.into(),
        namespace: Some(namespace.as_str().to_owned()),
        value: None,
        raw_value: None,
    };
    Ok(axum::Json(names.into_iter().map(secret).collect()))
}

async fn create(
    State(handles): State<Handles>,
    params: Params,
    Json(body): Json<wire::Secret, BODY>,
) -> Done {
    let namespace = handles.namespace(&params, body.namespace.as_deref())?;
    handles.secrets.create(namespace, body).await?;
    Ok(StatusCode::CREATED)
}

async fn update(
    State(handles): State<Handles>,
    params: Params,
    Json(body): Json<wire::Secret, BODY>,
) -> Done {
    let namespace = handles.namespace(&params, body.namespace.as_deref())?;
    handles.secrets.update(namespace, body).await?;
    Ok(StatusCode::OK)
}

/// The values of one namespace's secrets, or of all namespaces', as the payload of an age file.
async fn export(
    State(handles): State<Handles>,
    params: Params,
    Json(body): Json<wire::SecretsExport>,
) -> Result<impl IntoResponse, ErrorResponse> {
    let malformed = || Invalid::new("key", "is not 16 bytes in base64 without padding");
    let key = FileKey::decode(&body.key).ok_or_else(malformed)?;
    let namespaces = match params.namespace(None)? {
        Some(namespace) => {
            params::known(&handles.fleet, &namespace)?;
            vec![namespace]
        }
        None => {
            let all = handles.fleet.namespaces().into_iter();
            all.map(|namespace| namespace.name.parse()).collect::<Result<_, Invalid>>()?
        }
    };
    let payload = handles.secrets.export(namespaces, key).await?;
    tracing::info!("secrets were exported, sealed");
    Ok(([(CONTENT_TYPE, "application/octet-stream")], payload))
}

async fn delete(
    State(handles): State<Handles>,
    params: Params,
    Json(body): Json<wire::Secret, BODY>,
) -> Done {
    let namespace = handles.namespace(&params, body.namespace.as_deref())?;
    let secret: SecretName = body.name.parse()?;
    let users = handles.users(&namespace, &secret);
    if !users.is_empty() {
        return Err(SecretError::InUse { secret, functions: users.join(", ") }.into());
    }
    to_the_end(async move { handles.secrets.delete(namespace, secret).await }).await?;
    Ok(StatusCode::ACCEPTED)
}
