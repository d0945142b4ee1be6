//! What stands in the query and in the path: namespaces, switches, names.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, Path, Query};
use http::request::Parts;

use crate::gateway::error::{ErrorCode, ErrorResponse};
use control::fleet::{Fleet, FleetError};
use model::function::{FunctionFilter, FunctionKey, Invalid, NamespaceName};

/// Rows in one answer, unless the query says otherwise.
const LIMIT: usize = 100;
/// Rows in one answer at most.
const MOST: usize = 1000;

/// The query, by name. A parameter that is given empty counts as not given.
pub(super) struct Params(HashMap<String, String>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorResponse> {
        Query::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(|error| {
            ErrorResponse::new(ErrorCode::InvalidQuery, format!("the query is malformed: {error}"))
        })
    }
}

impl Params {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Refuses names that mean nothing here, and those that are given empty: where nothing means all, a variable that
    /// was not set must not.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), Invalid> {
        for (name, text) in &self.0 {
            if !known.contains(&name.as_str()) {
                return Err(Invalid::new(name, format!("is none of {}", known.join(", "))));
            }
            if text.is_empty() {
                return Err(Invalid::new(name, "is empty: leave it out to mean all"));
            }
        }
        Ok(())
    }

    /// The functions that are asked for.
    pub(super) fn functions(&self) -> Result<FunctionFilter, Invalid> {
        FunctionFilter::parse(self.get("function"), self.namespace(None)?)
    }

    /// How many rows are asked for, at most.
    pub(super) fn limit(&self) -> Result<usize, Invalid> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT) };
        let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
        limit.ok_or_else(|| Invalid::new("limit", format!("{text:?} is not a number from 1 to {MOST}")))
    }

    /// A switch, as Go programs write it.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Invalid> {
        match self.get(name) {
            None => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some(other) => Err(Invalid::new(name, format!("{other:?} is neither true nor false"))),
        }
    }

    /// The namespace, from the body or from here: some clients send it in one, some in the other.
    pub(super) fn namespace(&self, in_body: Option<&str>) -> Result<Option<NamespaceName>, Invalid> {
        let text = match (in_body.filter(|text| !text.is_empty()), self.get("namespace")) {
            (Some(body), Some(query)) if body != query => {
                let reason = format!("is {body:?} in the body and {query:?} in the query; send one of them");
                return Err(Invalid::new("namespace", reason));
            }
            (body, query) => body.or(query),
        };
        text.map(str::parse).transpose()
    }

    /// The namespace, or the default one.
    pub(super) fn namespace_or_default(&self, in_body: Option<&str>) -> Result<NamespaceName, Invalid> {
        Ok(self.namespace(in_body)?.unwrap_or_default())
    }
}

/// The last part of the path, decoded; empty on a route that has none.
pub(super) struct PathName(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorResponse> {
        match Option::<Path<String>>::from_request_parts(parts, state).await {
            Ok(path) => Ok(Self(path.map(|Path(name)| name).unwrap_or_default())),
            Err(_) => Err(ErrorResponse::new(ErrorCode::InvalidPath, "the path is not valid UTF-8")),
        }
    }
}

/// The function that a client means: the one of that name in the namespace, which without one is the default, or else
/// what the same text names in the URL of a call, `name.namespace`.
pub(super) fn function(
    fleet: &Fleet,
    name: &str,
    namespace: Option<NamespaceName>,
) -> Result<FunctionKey, Invalid> {
    let filter = FunctionFilter::parse(Some(name), namespace)?;
    let named = filter.named();
    let found = named.iter().find(|key| fleet.directory().get(key).is_some()).or_else(|| named.first());
    found.cloned().ok_or_else(|| Invalid::new("service", "is empty; give a name"))
}

/// Refuses a namespace that is not there.
pub(super) fn known(fleet: &Fleet, namespace: &NamespaceName) -> Result<(), ErrorResponse> {
    let is_known = fleet.namespaces().iter().any(|known| known.name == namespace.as_str());
    is_known.then_some(()).ok_or_else(|| FleetError::NamespaceNotFound(namespace.clone()).into())
}
