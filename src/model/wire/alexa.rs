//! What Alexa sends to a skill, as far as it decides which function is called.

use serde::Deserialize;

/// `POST /`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AlexaRequest {
    /// What is asked of the skill.
    pub request: SkillRequest,
}

/// What is asked of a skill.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SkillRequest {
    /// What the user wants. An `IntentRequest` has one; a `LaunchRequest` or `SessionEndedRequest` has not.
    pub intent: Intent,
}

/// What a user wants of a skill.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Intent {
    /// Its name, which is that of the function.
    pub name: String,
}
