//! Parses `WWW-Authenticate`.

use http_auth::ChallengeParser;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// A token from the server at `realm` (docker registry token specification).
    Bearer {
        /// The token server's URL, not validated.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenges that swanci can answer, Bearer before Basic, as docker answers them.
pub(super) fn known<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let (mut known, mut basic) = (Vec::new(), false);
    for header in headers {
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            let param = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = param("realm") {
                    known.push(Challenge::Bearer { realm, service: param("service"), scope: param("scope") });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            }
        }
    }
    known.extend(basic.then_some(Challenge::Basic));
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_comes_first_with_all_its_parameters() {
        let header = r#"Basic realm="r", Bearer realm="https://auth.example.org/token",service="reg",scope="repository:a/b:pull,push""#;
        assert_eq!(
            known([header].into_iter()),
            [
                Challenge::Bearer {
                    realm: "https://auth.example.org/token".into(),
                    service: Some("reg".into()),
                    scope: Some("repository:a/b:pull,push".into()),
                },
                Challenge::Basic,
            ]
        );
    }

    #[test]
    fn basic_is_found_in_any_header_and_nonsense_is_ignored() {
        assert_eq!(known(["Negotiate", "basic realm=\"Registry Realm\""].into_iter()), [Challenge::Basic]);
        assert_eq!(known(["", ",,,", "Bearer", "Bearer service=\"x\"", "Digest realm=\"x"].into_iter()), []);
    }
}
