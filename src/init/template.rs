//! The commented configuration: every key, those that were not answered as comments.

use std::path::Path;

use super::Answers;

/// The text of `swanci.toml`. A line that begins with `#` and no space is a setting that is not made.
pub(super) fn render(answers: &Answers, secret_file: &Path) -> String {
    let registry = match &answers.registry {
        Some(registry) => format!("host = {}", string(&registry.to_string())),
        None => "#host = \"registry.example.org:443\"".to_owned(),
    };
    let ca_file =
        if answers.certificates { "ca_file = \"certs/ca.crt\"" } else { "#ca_file = \"certs/ca.crt\"" };
    let secret_file = string(&secret_file.display().to_string());
    let (serve_secret, forge) = match &answers.forge {
        None => (
            format!("secret_file = {secret_file}"),
            "#[[forge]]\n#kind = \"gitea\"\n#url = \"https://git.example.org\"\n\
             #secret_file = \"git.example.org.secret\""
                .to_owned(),
        ),
        Some((kind, url)) => (
            "#secret_file = \"secret\"".to_owned(),
            format!(
                "[[forge]]\nkind = {}\n{}secret_file = {secret_file}",
                string(kind.as_str()),
                url.as_ref().map(|url| format!("url = {}\n", string(url))).unwrap_or_default()
            ),
        ),
    };
    let mut text = format!(
        r#"# swanci's configuration. A line that begins with # and no space shows a key and its default, or an example.
# Relative paths are relative to this file. The environment (SWANCI_<SECTION>_<KEY>) and flags come before it.

# Where mirrors, receipts and the queue are kept; by default $XDG_STATE_HOME/swanci.
#state_dir = "/var/lib/swanci"

[registry]
# Where images go; it may end in a namespace.
{registry}
# The certificate authority for swanci's own requests; `swanci trust` installs it for docker.
{ca_file}
# Only for a registry on loopback.
#plain_http = false
# Credentials are docker's own: docker login, credential helpers.

[build]
# Images at once.
#jobs = 2
# For each image.
#timeout = "30m"
# Moving tags: {{version}}, {{branch}}, {{commit}}, {{short}}, {{number}}.
#tags = ["{{version}}"]
# Newest local images of each name that stay.
#keep_local = 2
# A buildx builder: remote BuildKit, Kubernetes.
#builder = "fleet"
# The docker CLI.
#docker = "docker"

[serve]
# Where webhooks arrive: a tunnel or a reverse proxy with TLS stands in front.
#listen = "127.0.0.1:8080"
# The secret that GitHub signs deliveries with; other forges have theirs under [[forge]]. Keep it out of git.
{serve_secret}
# Merges at once.
#jobs = 1
# For one merge.
#timeout = "1h"
# GitHub's own limit.
#max_body = "25MiB"
# How long finished jobs are kept.
#retention = "90d"
# Where metrics are served; nowhere unless given.
#admin_listen = "127.0.0.1:9090"
# The address of this machine for people; links in commit statuses begin with it.
#public_url = "https://ci.example.org"

# Where the repositories live; https://github.com unless given. The token is for private clones, statuses and comments,
# the CA for a certificate of its own.
{forge}
#token_file = "git.example.org.token"
#ca_file = "git-ca.crt"
# A status on the commit that landed; it needs the token.
#status = false
# A comment on the pull request with the pull commands.
#comment = false

# The repositories whose merges are built: `serve` takes deliveries of no other.
"#
    );
    if answers.repositories.is_empty() {
        text.push_str("#[[repository]]\n#name = \"acme/shop\"\n");
        text.push_str(
            "# Globs of the branches; every branch unless given.\n#branches = [\"main\", \"release/*\"]\n",
        );
        text.push_str(&optional(None));
    }
    for (i, name) in answers.repositories.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        text.push_str(&format!("[[repository]]\nname = {}\n", string(name.as_str())));
        text.push_str("# Globs of the branches; every branch unless given.\n");
        if answers.branches.is_empty() {
            text.push_str("#branches = [\"main\", \"release/*\"]\n");
        } else {
            let branches: Vec<String> = answers.branches.iter().map(|branch| string(branch)).collect();
            text.push_str(&format!("branches = [{}]\n", branches.join(", ")));
        }
        text.push_str(&optional(answers.clone_url.as_deref()));
    }
    text
}

/// The keys of a repository that few need.
fn optional(clone_url: Option<&str>) -> String {
    let clone_url = match clone_url {
        Some(url) => format!("clone_url = {}", string(url)),
        None => "#clone_url = \"ssh://git@github.com/acme/shop.git\"".to_owned(),
    };
    format!(
        "# Where to clone from instead of the forge's own address.\n{clone_url}\n\
         # In front of this repository's image names.\n#namespace = \"team-a\"\n\
         # Full names from before a rename: their images are this repository's own.\n\
         #former_names = [\"acme/old-name\"]\n\
         # Docker build secrets of this repository's images, by id: files.\n\
         #secrets = {{ npm = \"/etc/swanci/npm-token\" }}\n#submodules = false\n"
    )
}

/// A TOML string; the crate knows what has to be escaped.
fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
