//! A version of a function, with its image.

use std::sync::Arc;

use host::runtime::ResolvedImage;
use model::function::FunctionSpec;
use model::wire;

/// One version of a function's spec, with the image that its name meant.
#[derive(Debug)]
pub struct Revision {
    /// Number of the revision, counted from 1.
    pub number: u64,
    /// As it was sent.
    pub deployment: Arc<wire::Deployment>,
    /// The same, parsed.
    pub spec: Arc<FunctionSpec>,
    /// When it was deployed.
    pub created_at: jiff::Timestamp,
    /// The image.
    pub image: ResolvedImage,
}
