//! What a registry asks for in `WWW-Authenticate`. Pure.

use http_auth::ChallengeParser;

/// A way to authenticate that swanci knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Username and password with each request.
    Basic,
    /// A token from the server at `realm` (docker registry token specification).
    Bearer {
        /// The token server's URL: untrusted until it is judged.
        realm: String,
        /// The name of the registry there.
        service: Option<String>,
        /// What the request would have needed.
        scope: Option<String>,
    },
}

/// The challenge to answer: Bearer before Basic, as docker does; `None` when none is known or well-formed.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            let param = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: param("service"),
                        scope: param("scope"),
                    });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_is_preferred_and_read_whole() {
        let header = r#"Basic realm="r", Bearer realm="https://auth.example.org/token",service="reg",scope="repository:a/b:pull,push""#;
        assert_eq!(
            choose([header].into_iter()),
            Some(Challenge::Bearer {
                realm: "https://auth.example.org/token".into(),
                service: Some("reg".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
    }

    #[test]
    fn basic_is_taken_from_any_of_several_headers_and_nonsense_is_passed_over() {
        assert_eq!(
            choose(["Negotiate", "basic realm=\"Registry Realm\""].into_iter()),
            Some(Challenge::Basic)
        );
        assert_eq!(
            choose(["", ",,,", "Bearer", "Bearer service=\"x\"", "Digest realm=\"x"].into_iter()),
            None
        );
    }
}
