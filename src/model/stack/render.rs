//! Deployments to text: what `ingle export` writes, and faas-cli reads.

use super::StackError;
use super::schema::{self, Entries, Texts};
use super::substitute::escape;
use crate::function::NamespaceName;
use crate::wire::{Deployment, Namespace};

/// One document for each namespace, in their order; names in it are those of its functions.
pub fn render(namespaces: &[(Namespace, Vec<Deployment>)]) -> Result<String, StackError> {
    let mut text = String::new();
    for (namespace, functions) in namespaces {
        let Namespace { name, labels, annotations } = namespace.clone();
        let described = schema::Namespace { labels: labels.map(Texts), annotations: annotations.map(Texts) };
        let functions = functions.iter().cloned();
        let file = schema::File {
            version: Some("1.0".into()),
            provider: Some(schema::Provider { name: Some("openfaas".into()), gateway: None }),
            namespaces: (name != NamespaceName::DEFAULT).then(|| Entries([(name, Some(described))].into())),
            functions: Some(Entries(functions.map(|one| (one.service.clone(), Some(one.into()))).collect())),
        };
        let document = serde_norway::to_string(&file).map_err(|error| StackError::new(error.to_string()))?;
        if !text.is_empty() {
            text.push_str("---\n");
        }
        // Whoever reads it fills in variables; what stands here is meant as it is.
        text.push_str(&escape(&document));
    }
    Ok(text)
}
