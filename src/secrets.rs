//! Secrets: files under the state directory that containers see read-only.
