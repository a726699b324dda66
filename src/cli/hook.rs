//! The command line of `swanci hook`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::hooks::HookId;
use crate::model::RepoName;

/// A repository on a forge, which has an owner.
pub(crate) fn full_name(text: &str) -> Result<RepoName, String> {
    let name: RepoName = text.parse().map_err(|error| format!("{error}"))?;
    if name.as_str().contains('/') { Ok(name) } else { Err("its owner is missing: owner/name".to_owned()) }
}

#[derive(Debug, Subcommand)]
pub(crate) enum HookAction {
    /// Print the webhook URL, from ngrok's public address
    #[command(after_help = "Example:\n  swanci hook url")]
    Url {
        /// The ngrok agent's local API
        #[arg(long, value_name = "URL", default_value = crate::hooks::NGROK_API)]
        ngrok_api: String,
    },
    /// Create or update the repository's webhook on its forge
    #[command(
        after_help = "Examples:\n  swanci hook install --repo owner/name\n  swanci hook install --repo owner/name --url https://ci.example.org/webhook\n  swanci hook install --repo owner/name --forge https://git.example.org --url https://ci.example.org/webhook\n\nThe token for GitHub is read from GH_TOKEN or GITHUB_TOKEN: a classic token with the scope admin:repo_hook, or a\nfine-grained token with the repository permission \"Webhooks: write\". For the other forges it is the token_file of\nthe [[forge]], or SWANCI_GIT_TOKEN. Running it again leaves one webhook."
    )]
    Install(HookInstall),
    /// Send a ping and show the recent deliveries
    #[command(
        after_help = "Example:\n  swanci hook check --repo owner/name\n\nExit code 1: the ping or a recent delivery failed, or the webhook is misconfigured."
    )]
    Check(HookCheck),
    /// Send failed deliveries again (GitHub and GitLab; for other forges, print what to click)
    #[command(
        after_help = "Examples:\n  swanci hook redeliver --repo owner/name\n  swanci hook redeliver --repo owner/name --since 6h --dry-run"
    )]
    Redeliver(HookRedeliver),
}

#[derive(Debug, Args)]
pub(crate) struct HookTarget {
    /// The repository [default: the only one in the configuration]
    #[arg(long, value_name = "OWNER/NAME", value_parser = full_name)]
    pub repo: Option<RepoName>,
    /// The forge: a kind, such as gitea, or the url of a [[forge]] [default: the repository's in the configuration, else GitHub]
    #[arg(long, value_name = "KIND|URL")]
    pub forge: Option<String>,
    /// The forge's API; GitHub Enterprise's is https://HOST/api/v3 [default: $GITHUB_API_URL, else https://api.github.com]
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// The webhook's number (Bitbucket Cloud: {UUID}), if several could be swanci's
    #[arg(long, value_name = "NUMBER")]
    pub id: Option<HookId>,
}

#[derive(Debug, Args)]
pub(crate) struct HookInstall {
    #[command(flatten)]
    pub target: HookTarget,
    /// The URL for deliveries; /webhook is added to a bare address [default: ngrok's public address]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The ngrok agent's local API
    #[arg(long, value_name = "URL", default_value = crate::hooks::NGROK_API)]
    pub ngrok_api: String,
    /// The webhook's secret [default: the first secret_file of the forge, or SWANCI_SECRET]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HookCheck {
    #[command(flatten)]
    pub target: HookTarget,
    /// Number of deliveries to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub last: u8,
    /// Time limit for the ping
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
    /// Send no ping
    #[arg(long)]
    pub no_ping: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HookRedeliver {
    #[command(flatten)]
    pub target: HookTarget,
    /// Only events whose newest attempt is younger than this (GitHub keeps deliveries for 3 days)
    #[arg(long, value_name = "DURATION", default_value = "3d", value_parser = humantime::parse_duration)]
    pub since: Duration,
    /// Print what would be sent again, without sending
    #[arg(long)]
    pub dry_run: bool,
}
