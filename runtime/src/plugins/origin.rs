//! An origin: scheme, host and port, the unit in which requests are asked for, granted and checked.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `https://api.example.com`, `http://127.0.0.1:8080`: exactly this scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Whether it is `https`.
    tls: bool,
    /// In lower case, punycode; an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of `url`.
    ///
    /// # Errors
    /// Why a request to it can never be granted.
    pub fn of(url: &Url) -> Result<Self, String> {
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(format!("its scheme is `{other}`; requests are `http` or `https`")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it holds credentials; a secret is granted by name".into());
        }
        match (url.host_str(), url.port_or_known_default()) {
            // A dot at the end names the same host.
            (Some(host), Some(port)) if !host.trim_end_matches('.').is_empty() => {
                Ok(Self { tls, host: host.trim_end_matches('.').to_owned(), port })
            }
            _ => Err("it names no host".into()),
        }
    }

    /// The host, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the host is an address or this machine's own name: whoever writes that knows where it leads.
    pub fn names_an_address(&self) -> bool {
        self.host == "localhost" || self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("it has a path; an origin is scheme, host and port alone".into());
        }
        Self::of(&url)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.tls { ("https", 443) } else { ("http", 80) };
        write!(formatter, "{scheme}://{}", self.host)?;
        if self.port == usual { Ok(()) } else { write!(formatter, ":{}", self.port) }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|reason| {
            serde::de::Error::custom(format!("`{}` is no origin: {reason}", text.escape_debug()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<Origin>(), expected) {
            (Ok(origin), Ok(shown)) => assert_eq!(origin.to_string(), shown),
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn one_origin_has_one_form() {
        check("https://API.example.com:443", Ok("https://api.example.com"));
        check("https://api.example.com.", Ok("https://api.example.com"));
        check("http://api.example.com:8080/", Ok("http://api.example.com:8080"));
        check("http://[::1]:80", Ok("http://[::1]"));
        // However an address is written, it is the same address.
        check("http://0x7f.1", Ok("http://127.0.0.1"));
        check("http://2130706433", Ok("http://127.0.0.1"));
    }

    #[test]
    fn what_is_no_origin_says_why() {
        check("api.example.com", Err("no URL"));
        check("ftp://example.com", Err("its scheme is `ftp`"));
        check("https://user:password@example.com", Err("credentials"));
        check("https://example.com/path", Err("a path"));
        check("https://example.com?q=1", Err("a path"));
    }

    #[test]
    fn an_address_and_this_machine_are_named_on_purpose() {
        let names = |text: &str| text.parse::<Origin>().expect("an origin").names_an_address();
        assert!(names("http://127.0.0.1") && names("http://[fd00::1]") && names("http://localhost:8080"));
        assert!(!names("http://intranet"));
    }
}
