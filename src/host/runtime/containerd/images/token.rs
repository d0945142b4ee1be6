//! Fetches the token that opens a repository, from the server that a challenge names.

use http::header::CONTENT_TYPE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::credentials::Credentials;
use super::error::{Fault, brief};
use super::json;
use super::web;
use model::error::public_url;

/// The most that an answer may have.
const MAX_ANSWER: u64 = 1 << 20;

/// A question for a token.
pub(super) struct Question<'a> {
    /// Address of the server of tokens.
    pub(super) realm: Url,
    /// Challenge that names it.
    pub(super) challenge: &'a Challenge,
    /// Repository to pull from.
    pub(super) repository: &'a str,
    pub(super) credentials: &'a Credentials,
    /// Set if the host itself is spoken to without TLS.
    pub(super) plain: bool,
}

impl Question<'_> {
    /// Fetches a token for pulling.
    ///
    /// Forms are sent with a client of their own, `forms`, which follows no redirect.
    pub(super) async fn ask(
        &self,
        client: &reqwest::Client,
        forms: &reqwest::Client,
    ) -> Result<String, Fault> {
        let shown = brief(public_url(self.realm.as_str()));
        if self.realm.scheme() != "https" && !self.plain && *self.credentials != Credentials::Anonymous {
            return Err(Fault::Foreign(format!(
                "it wants the credentials to be sent to {shown} in the clear"
            )));
        }
        let mut answer = match self.credentials {
            Credentials::IdentityToken(token) => {
                self.post(forms, &[("grant_type", "refresh_token"), ("refresh_token", token)]).await?
            }
            Credentials::Password { user, password } => {
                let answer = self.get(client, Some((user, password))).await?;
                match answer.status().as_u16() {
                    // Servers that know only the newer form.
                    404 | 405 | 501 => {
                        let form = [("grant_type", "password"), ("username", user), ("password", password)];
                        self.post(forms, &form).await?
                    }
                    _ => answer,
                }
            }
            Credentials::Anonymous | Credentials::Bearer(_) => self.get(client, None).await?,
        };
        match answer.status().as_u16() {
            200..=299 => {}
            400 | 401 | 403 => return Err(Fault::Unauthorized),
            code => {
                let after = web::retry_after(&answer);
                let cause = format!("{shown}, where its tokens come from, answered {code}");
                return Err(Fault::from_status(code, "", after).because(cause));
            }
        }
        let (text, is_whole) = web::read(&mut answer, MAX_ANSWER).await?;
        if !is_whole {
            return Err(Fault::Foreign(format!("{shown} sent more than a token")));
        }
        token(&text).ok_or_else(|| Fault::Foreign(format!("{shown} sent no token")))
    }

    /// Returns the scopes to be opened: those of the challenge, and to pull in any case.
    fn scopes(&self) -> Vec<String> {
        let pull = format!("repository:{}:pull", self.repository);
        let mut scopes: Vec<String> =
            self.challenge.get("scope").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if !scopes.contains(&pull) {
            scopes.push(pull);
        }
        scopes
    }

    async fn get(
        &self,
        client: &reqwest::Client,
        user: Option<(&String, &String)>,
    ) -> Result<Response, Fault> {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = self.challenge.get("service") {
                query.append_pair("service", service);
            }
            for scope in self.scopes() {
                query.append_pair("scope", &scope);
            }
        }
        let mut request = client.get(url);
        if let Some((user, password)) = user {
            request = request.basic_auth(user, Some(password));
        }
        request.send().await.map_err(|error| Fault::from_request(&error))
    }

    async fn post(&self, client: &reqwest::Client, form: &[(&str, &str)]) -> Result<Response, Fault> {
        let scopes = self.scopes().join(" ");
        let service = self.challenge.get("service").map(|service| ("service", service));
        let form: Vec<String> = [("client_id", "ingle"), ("scope", scopes.as_str())]
            .into_iter()
            .chain(service)
            .chain(form.iter().copied())
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let request = client
            .post(self.realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.join("&"));
        request.send().await.map_err(|error| Fault::from_request(&error))
    }
}

/// Returns the token in an answer, under either of its names.
fn token(answer: &[u8]) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Answer {
        token: String,
        access_token: String,
    }
    let Answer { token, access_token } = json::first(answer).ok()?;
    [access_token, token].into_iter().find(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_two_names() {
        for (answer, want) in [
            (r#"{"token":"a"}"#, Some("a")),
            (r#"{"access_token":"a","expires_in":"300","issued_at":5}"#, Some("a")),
            (r#"{"token":"b","access_token":"a"}"#, Some("a")),
            (r#"{"token":"a","access_token":""}"#, Some("a")),
            ("{\"token\":\"a\"}\n<!-- served by -->", Some("a")),
            (r#"{"Token":"a","access_token":null}"#, Some("a")),
            (r#"{"token":null}"#, None),
            (r#"{"token":5}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            assert_eq!(token(answer.as_bytes()).as_deref(), want, "{answer}");
        }
    }
}
