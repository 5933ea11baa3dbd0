//! Secrets: put into requests, taken out of answers. A guest never sees one.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::plugins::origin::Origin;
use crate::plugins::permissions::SecretAccess;

/// A shorter secret would be found in any text, and guessed anyway.
const MIN_BYTES: usize = 8;
const MAX_BYTES: usize = 4096;

/// One plugin's secrets, with their values.
pub(super) struct Secrets(Vec<Secret>);

struct Secret {
    access: SecretAccess,
    value: String,
    header: HeaderName,
    /// Prefix and value.
    line: HeaderValue,
}

impl Secrets {
    /// Reads the values from the environment.
    pub(super) fn read(granted: &[SecretAccess]) -> Result<Self, String> {
        let read = |access: &SecretAccess| {
            let SecretAccess { name, variable, .. } = access;
            let value = std::env::var(variable).map_err(|_| {
                format!("the secret `{name}` needs the variable `{variable}`, which is not set")
            })?;
            Self::secret(access, value)
        };
        granted.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    fn secret(access: &SecretAccess, value: String) -> Result<Secret, String> {
        let SecretAccess { name, variable, header, prefix, .. } = access;
        if !(MIN_BYTES..=MAX_BYTES).contains(&value.len()) || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!(
                "the secret `{name}` in `{variable}` must have {MIN_BYTES} to {MAX_BYTES} plain characters"
            ));
        }
        // Neither message holds the value.
        let no_header = |_| format!("the secret `{name}` cannot be in the header `{header}`");
        let mut line = HeaderValue::from_str(&format!("{prefix}{value}")).map_err(no_header)?;
        line.set_sensitive(true);
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| format!("the secret `{name}` cannot be in the header `{header}`"))?;
        Ok(Secret { access: access.clone(), value, header, line })
    }

    /// Puts the secrets for `origin` into `headers`, over whatever a guest had there; says which.
    pub(super) fn add(&self, origin: &Origin, headers: &mut HeaderMap) -> Vec<String> {
        let mut added = Vec::new();
        for secret in self.0.iter().filter(|secret| secret.access.origin == *origin) {
            headers.insert(secret.header.clone(), secret.line.clone());
            added.push(format!("the secret `{}`", secret.access.name));
        }
        added
    }

    /// Bytes of the longest.
    pub(super) fn longest(&self) -> usize {
        self.0.iter().map(|secret| secret.value.len()).max().unwrap_or(0)
    }

    /// `bytes` with each secret replaced by its name: a server may send back what it got.
    pub(super) fn redacted(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for secret in &self.0 {
            let (value, name) = (secret.value.as_bytes(), format!("[secret {}]", secret.access.name));
            let mut clean = Vec::with_capacity(bytes.len());
            let mut rest = bytes.as_slice();
            while let Some(at) = rest.windows(value.len()).position(|window| window == value) {
                clean.extend_from_slice(&rest[..at]);
                clean.extend_from_slice(name.as_bytes());
                rest = &rest[at + value.len()..];
            }
            clean.extend_from_slice(rest);
            bytes = clean;
        }
        bytes
    }

    pub(super) fn redacted_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redacted(text.as_bytes())).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let access = SecretAccess {
            name: "token".into(),
            variable: "TOKEN".into(),
            origin: "https://a.example".parse().expect("an origin"),
            header: "authorization".into(),
            prefix: "Bearer ".into(),
        };
        Secrets(vec![Secrets::secret(&access, "s3cret-value".into()).expect("it is one")])
    }

    #[test]
    fn a_secret_goes_to_its_origin_alone_and_over_the_guests_own_header() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Basic guest"));
        assert!(secrets().add(&"https://b.example".parse().expect("an origin"), &mut headers).is_empty());
        assert_eq!(headers["authorization"], "Basic guest");
        assert_eq!(secrets().add(&"https://a.example".parse().expect("an origin"), &mut headers).len(), 1);
        assert_eq!(headers["authorization"], "Bearer s3cret-value");
        assert!(!format!("{headers:?}").contains("s3cret-value"));
    }

    #[test]
    fn an_answer_that_repeats_a_secret_is_redacted() {
        let redacted = secrets().redacted(b"got s3cret-value and s3cret-value, not s3cret");
        assert_eq!(redacted, b"got [secret token] and [secret token], not s3cret");
    }

    #[test]
    fn a_secret_that_could_be_any_text_is_refused_without_repeating_it() {
        let access = secrets().0.remove(0).access;
        let error = Secrets::secret(&access, "short".into()).err().expect("too short");
        assert!(!error.contains("short"), "{error}");
    }
}
