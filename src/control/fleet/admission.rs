//! Admission of a deployment: what can be told wrong before anything is changed.

use std::path::Path;

use host::bundles::Handlers;
use host::runtime::ResolvedImage;
use host::secrets::{SecretError, Secrets};
use model::function::{FunctionSpec, ImagePattern, Invalid};

use super::FleetError;
use crate::replica::needs_watchdog;

/// Refuses a schedule in a time zone that this machine does not know.
pub(super) fn check_schedule(spec: &FunctionSpec) -> Result<(), Invalid> {
    let Some(cron) = &spec.cron else { return Ok(()) };
    cron.schedule.timetable().map(drop).map_err(|reason| Invalid::new("annotations.schedule", reason))
}

/// Refuses a function that asks for more than the operator allows. Applies to every deploy, whoever makes it, and to
/// rollbacks.
pub(super) fn check_allowed(
    spec: &FunctionSpec,
    capabilities: &[String],
    images: &[ImagePattern],
) -> Result<(), Invalid> {
    let list = |words: Vec<String>| if words.is_empty() { "none".into() } else { words.join(", ") };
    if let Some(refused) = spec.capabilities.iter().find(|wanted| !capabilities.contains(wanted)) {
        let allowed = list(capabilities.to_vec());
        return Err(Invalid::new(
            "ingle.capabilities",
            format!(
                "{refused} is not in functions.allowed_capabilities ({allowed}); the operator can add it there"
            ),
        ));
    }
    if !images.iter().any(|pattern| pattern.matches(&spec.image)) {
        let (image, allowed) =
            (spec.image.canonical(), list(images.iter().map(ToString::to_string).collect()));
        return Err(Invalid::new(
            "image",
            format!("{image} is not in images.allowed ({allowed}); the operator can add it there"),
        ));
    }
    Ok(())
}

/// Refuses a function that asks for a secret which is not there.
pub(super) fn check_secrets(secrets: &Secrets, spec: &FunctionSpec) -> Result<(), FleetError> {
    let mounted = secrets.mount(&spec.key.namespace, &spec.secrets);
    mounted.map(drop).map_err(|error| match error {
        SecretError::NotFound { secret, namespace } => {
            FleetError::SecretNotFound { secret: secret.to_string(), namespace }
        }
        other => FleetError::Secrets(other),
    })
}

/// Refuses a function whose code is not there.
pub(super) fn check_handler(handlers: &Handlers, spec: &FunctionSpec) -> Result<(), FleetError> {
    let mounted = spec.handler.as_ref().map(|handler| handlers.mount(handler)).transpose();
    mounted.map(drop).map_err(FleetError::Handler)
}

/// Refuses what there is nothing to run for.
pub(super) fn check_command(
    image: &ResolvedImage,
    spec: &FunctionSpec,
    watchdog: &Path,
) -> Result<(), FleetError> {
    if needs_watchdog(spec, &image.config) {
        // Looked for now: the next replica may start when nobody watches.
        return if watchdog.is_file() { Ok(()) } else { Err(FleetError::NoWatchdog(watchdog.to_owned())) };
    }
    if image.config.entrypoint.is_empty() && image.config.cmd.is_empty() {
        return Err(host::runtime::RuntimeError::NoCommand { image: image.image.to_string() }.into());
    }
    Ok(())
}
