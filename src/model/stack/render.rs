//! Deployments to text: what `ingle export` writes, and faas-cli reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::StackError;
use crate::wire::{Deployment, Namespace, Resources};

/// One document of a stack file.
#[derive(Serialize)]
struct File<'a> {
    version: &'a str,
    provider: Provider<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespaces: BTreeMap<&'a str, Labelled<'a>>,
    functions: BTreeMap<&'a str, Function<'a>>,
}

#[derive(Serialize)]
struct Provider<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Labelled<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

/// In the order in which people write it.
#[derive(Serialize)]
struct Function<'a> {
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fprocess: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<&'a Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly_root_filesystem: Option<bool>,
}

/// One document for each namespace, in their order; names in it are those of its functions.
pub fn render(namespaces: &[(Namespace, Vec<Deployment>)]) -> Result<String, StackError> {
    let mut text = String::new();
    for (namespace, functions) in namespaces {
        let described = namespace.name != crate::function::NamespaceName::DEFAULT;
        let Namespace { name, labels, annotations } = namespace;
        let file = File {
            version: "1.0",
            provider: Provider { name: "openfaas" },
            namespaces: described
                .then_some((
                    name.as_str(),
                    Labelled { labels: labels.as_ref(), annotations: annotations.as_ref() },
                ))
                .into_iter()
                .collect(),
            functions: functions
                .iter()
                .map(|function| (function.service.as_str(), Function::of(function)))
                .collect(),
        };
        let document = serde_norway::to_string(&file).map_err(|error| StackError::new(error.to_string()))?;
        if !text.is_empty() {
            text.push_str("---\n");
        }
        // Whoever reads it fills in variables; what stands here is meant as it is.
        text.push_str(&document.replace("${", "$${"));
    }
    Ok(text)
}

impl<'a> Function<'a> {
    fn of(deployment: &'a Deployment) -> Self {
        Self {
            image: &deployment.image,
            namespace: deployment.namespace.as_deref(),
            fprocess: deployment.env_process.as_deref(),
            environment: deployment.env_vars.as_ref(),
            secrets: deployment.secrets.as_deref(),
            labels: deployment.labels.as_ref(),
            annotations: deployment.annotations.as_ref(),
            constraints: deployment.constraints.as_deref(),
            limits: deployment.limits.as_ref(),
            requests: deployment.requests.as_ref(),
            readonly_root_filesystem: deployment.read_only_root_filesystem,
        }
    }
}
