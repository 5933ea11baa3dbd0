//! What the operator grants a plugin beyond folders: `[plugins.ID]` in the user's settings.
//!
//! A grant is a list of texts for each capability, the same in the settings and on the command line
//! (`chaski plugin grant ID http=https://api.example.com`).

use super::manifest::{is_name, parse};
use super::origin::Origin;

/// The capabilities that are granted by name, in the order in which they are shown.
pub const CAPABILITIES: [&str; 4] = ["http", "env", "secrets", "tools"];

/// What follows an origin that may lead to a private address.
const PRIVATE: &str = "+private";

/// What one plugin was granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Origins that it may send requests to.
    pub http: Vec<HttpGrant>,
    /// Environment variables that it may see.
    pub env: Vec<String>,
    /// Secrets that the host puts into its requests.
    pub secrets: Vec<SecretGrant>,
    /// Tools that it may call: names, `plugin.*`, or `*`.
    pub tools: Vec<String>,
}

/// An origin that a plugin may send requests to: `https://api.example.com`, `http://intranet+private`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    /// Scheme, host and port.
    pub origin: Origin,
    /// Its name may stand for an address that is not public: this machine's, or one of its network. Without
    /// that, only an address written as such may.
    pub private: bool,
}

/// A secret: `token:API_TOKEN@https://api.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretGrant {
    /// What the plugin's manifest calls it.
    pub name: String,
    /// The environment variable that holds it; the secret itself is never in a file.
    pub variable: String,
    /// The only origin that it may be sent to, whatever a later manifest says.
    pub origin: Origin,
}

impl std::fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.origin, if self.private { PRIVATE } else { "" })
    }
}

impl std::fmt::Display for SecretGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}@{}", self.name, self.variable, self.origin)
    }
}

impl Grant {
    /// Adds `text` to `capability`. Granting the same again changes nothing.
    ///
    /// # Errors
    /// What is wrong with it, to follow its name: `has …`.
    pub fn add(&mut self, capability: &str, text: &str) -> Result<(), String> {
        let shown = text.escape_debug();
        match capability {
            "http" => {
                let (origin, private) = match text.strip_suffix(PRIVATE) {
                    Some(origin) => (origin, true),
                    None => (text, false),
                };
                let origin = origin.parse().map_err(|reason| {
                    format!("has `{shown}`, but an origin is like `https://api.example.com`: {reason}")
                })?;
                push(&mut self.http, HttpGrant { origin, private });
            }
            "env" if parse::is_variable(text) => push(&mut self.env, text.to_owned()),
            "env" => return Err(format!("has `{shown}`, which is no variable's name")),
            "tools" if parse::is_tool_pattern(text) => push(&mut self.tools, text.to_owned()),
            "tools" => return Err(format!("has `{shown}`, but a tool is `plugin.tool`, `plugin.*` or `*`")),
            "secrets" => {
                let parts = text.split_once(':').and_then(|(name, rest)| {
                    let (variable, origin) = rest.split_once('@')?;
                    (is_name(name) && parse::is_variable(variable)).then_some((name, variable, origin))
                });
                // What was pasted may be the secret: it is not repeated.
                let (name, variable, origin) = parts.ok_or(
                    "has a secret that is not of the form NAME:VARIABLE@ORIGIN, like \
                     `token:API_TOKEN@https://api.example.com`",
                )?;
                let origin = origin
                    .parse()
                    .map_err(|reason| format!("has the secret `{name}`, whose origin is none: {reason}"))?;
                let (name, variable) = (name.to_owned(), variable.to_owned());
                push(&mut self.secrets, SecretGrant { name, variable, origin });
            }
            other => {
                return Err(format!("names `{other}`; what can be granted is {}", CAPABILITIES.join(", ")));
            }
        }
        Ok(())
    }

    /// The texts of `capability`, as they were granted.
    pub fn texts(&self, capability: &str) -> Vec<String> {
        match capability {
            "http" => self.http.iter().map(ToString::to_string).collect(),
            "env" => self.env.clone(),
            "secrets" => self.secrets.iter().map(ToString::to_string).collect(),
            "tools" => self.tools.clone(),
            _ => Vec::new(),
        }
    }
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(capability: &str, text: &str, expected: Result<&str, &str>) {
        let mut grant = Grant::default();
        match (grant.add(capability, text), expected) {
            (Ok(()), Ok(shown)) => assert_eq!(grant.texts(capability), [shown]),
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn grants_are_written_as_they_are_read() {
        check("http", "https://a.example:443", Ok("https://a.example"));
        check("http", "http://intranet:8080+private", Ok("http://intranet:8080+private"));
        check("env", "LANG", Ok("LANG"));
        check("tools", "workspace.*", Ok("workspace.*"));
        check("secrets", "token:API_TOKEN@https://a.example", Ok("token:API_TOKEN@https://a.example"));
    }

    #[test]
    fn what_is_no_grant_says_why_and_repeats_no_secret() {
        check("http", "*", Err("an origin is like"));
        check("env", "A=B", Err("no variable's name"));
        check("tools", "x", Err("`plugin.tool`"));
        check("gpu", "x", Err("what can be granted is http, env, secrets, tools"));
        let reason = Grant::default().add("secrets", "token:sk-12345").expect_err("no variable");
        assert!(!reason.contains("sk-12345"), "{reason}");
    }
}
