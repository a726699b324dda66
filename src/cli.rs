//! The command line, as clap types: names, help and examples; no behaviour.

mod hook;
mod init;
mod steps;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ColorChoice, CommandFactory as _, Parser, Subcommand};

use crate::model::{RegistryAddress, RepoName};
use crate::queue::{JobId, JobState};

pub(crate) use hook::full_name;
pub(crate) use hook::{HookAction, HookCheck, HookInstall, HookRedeliver, HookTarget};
pub(crate) use init::Init;
pub(crate) use steps::{Build, BuildArgs, Catchup, PayloadArgs, Push, PushArgs, Run, SiteArgs};

/// Turns a merged pull request into Docker images in a private registry.
#[derive(Debug, Parser)]
#[command(name = "swanci", version, arg_required_else_help = true, after_help = EXAMPLES, propagate_version = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  swanci init
  swanci check
  swanci evaluate payload.json | swanci build - | swanci push -
  swanci run payload.json --registry registry.example.org:443
  swanci build --repo . --branch main
  swanci serve --listen 127.0.0.1:8080
  swanci doctor

Exit codes:
  0 done                         4 bad input
  1 the work failed              5 refused
  2 wrong usage                  6 the environment: git, docker, registry
  3 nothing to build (evaluate)  130, 143 interrupted";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The configuration file [default: $SWANCI_CONFIG, else ./swanci.toml, else /etc/swanci/swanci.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where mirrors, receipts and the queue are kept [default: state_dir of the configuration, else $XDG_STATE_HOME/swanci]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Print only the result, warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show the output of git and docker; repeat for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// When to use colours and live bars (NO_COLOR is respected)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Print JSON on a terminal too [default: JSON when standard output is redirected]
    #[arg(long, global = true)]
    pub json: bool,
}

/// The help of a subcommand refers to the global options and does not repeat them.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let global: Vec<clap::Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    with_global_options_hidden(command, &global)
}

fn with_global_options_hidden(command: clap::Command, global: &[clap::Arg]) -> clap::Command {
    // clap does not propagate a global option to a subcommand that has it already.
    command.mut_subcommands(|sub| {
        let examples = sub.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
        let sub = sub.args(global.iter().map(|arg| arg.clone().hide(true)));
        let sub = sub.after_help(format!("{examples}Global options: see swanci --help"));
        with_global_options_hidden(sub, global)
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Decide whether a webhook payload is a merge to build, and say why
    #[command(
        after_help = "Examples:\n  swanci evaluate payload.json --explain\n  swanci evaluate - --event pull_request < body\n\nWorks offline. Exit code 3: nothing to build."
    )]
    Evaluate(PayloadArgs),
    /// Clone the merged commit and build its images
    #[command(
        after_help = "Examples:\n  swanci evaluate payload.json | swanci build -\n  swanci build --repo https://github.com/acme/shop --branch main\n  swanci build --repo . --branch main --image httpd --dry-run"
    )]
    Build(Build),
    /// Push what was built, then move the tags; prints the receipt
    #[command(
        after_help = "Examples:\n  swanci build change.json | swanci push -\n  swanci push built.json --allow-rollback"
    )]
    Push(Push),
    /// Evaluate, build and push
    #[command(
        after_help = "Examples:\n  swanci run payload.json\n  swanci run \"$GITHUB_EVENT_PATH\" --event \"$GITHUB_EVENT_NAME\""
    )]
    Run(Run),
    /// Build the commits that the registry lacks, without a webhook
    #[command(
        after_help = "Examples:\n  swanci catchup\n  swanci catchup --repository acme/shop --dry-run\n  swanci catchup --repo https://github.com/acme/shop --branch main\n  swanci catchup --repo https://github.com/acme/shop --branch main \\\n      --since 2026-11-01 --dry-run\n\nOldest first; moving tags never move back. If the registry has none of the commits, only the newest is built, unless --since is given. A second catchup of the same repository exits at once with code 0."
    )]
    Catchup(Catchup),
    /// Check that everything on a receipt is still in the registry, unchanged
    #[command(
        after_help = "Examples:\n  swanci run payload.json > receipt.json && swanci verify receipt.json\n  swanci run payload.json | swanci verify -"
    )]
    Verify {
        /// The receipt: a file, or `-` for standard input
        #[arg(value_name = "RECEIPT")]
        receipt: PathBuf,
        #[arg(long, value_name = REGISTRY, help = WHERE_IMAGES_GO)]
        registry: Option<RegistryAddress>,
    },
    /// Listen for webhooks and run the pipeline for every merge
    #[command(
        after_help = "Examples:\n  swanci serve --secret-file secret --repository acme/shop\n  swanci serve --once --once-timeout 1h\n\nSIGTERM stops: running jobs stay queued. SIGHUP reads the configuration again."
    )]
    Serve(Serve),
    /// Inspect the queue of a state directory, even while serve runs
    #[command(
        after_help = "Examples:\n  swanci jobs\n  swanci jobs list --state failed\n  swanci jobs show 17\n  swanci jobs log 17 -f\n  swanci jobs retry 17"
    )]
    Jobs {
        #[command(subcommand)]
        command: Option<JobsCommand>,
    },
    /// Validate the configuration, and the images.json of a working tree, without building
    #[command(
        after_help = "Examples:\n  swanci check\n  swanci check ~/src/shop\n  swanci check --config /etc/swanci/swanci.toml\n\nWorks offline. Exit code 4: something is wrong; each problem is printed with file, line and column."
    )]
    Check {
        /// The root of a working tree [default: ., if it has an images.json or a Dockerfile]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Check git, docker, builder, registry, certificates, credentials and disk
    #[command(
        after_help = "Examples:\n  swanci doctor\n  swanci doctor --registry registry.example.org:443 --json"
    )]
    Doctor {
        #[arg(long, value_name = REGISTRY, help = WHERE_IMAGES_GO)]
        registry: Option<RegistryAddress>,
    },
    /// Write a commented configuration, a webhook secret and, on request, certificates
    #[command(
        after_help = "Examples:\n  swanci init\n  swanci init --yes --registry registry.example.org:443 \\\n      --repository acme/shop --branch main --certs\n  swanci init --yes --forge gitea --forge-url https://git.example.org \\\n      --repository acme/shop\n\nExisting files are never overwritten."
    )]
    Init(Init),
    /// Create or renew the registry's certificate, signed by its own authority
    #[command(
        after_help = "Examples:\n  swanci certs registry.example.org\n  swanci certs --dir /etc/swanci/certs registry.example.org 192.0.2.7\n\nThe authority in DIR is kept, so clients that trust it also trust the new certificate. If there is none, it is created.\nWrites ca.crt (for clients), ca.key, registry.crt and registry.key."
    )]
    Certs(Certs),
    /// Make docker on this machine trust a registry's certificate authority
    #[command(
        after_help = "Examples:\n  sudo swanci trust --ca certs/ca.crt registry.example.org:443\n  # rootless docker:\n  swanci trust --dir ~/.config/docker/certs.d --ca ca.crt registry.example.org\n  sudo swanci trust --remove registry.example.org:443\n\nDocker reads the file for each request, so no restart is needed."
    )]
    Trust(Trust),
    /// Install, check and redeliver the webhook at the forge
    #[command(
        after_help = "Examples:\n  swanci hook url\n  swanci hook install --repo acme/shop\n  swanci hook check --repo acme/shop"
    )]
    #[command(subcommand)]
    Hook(HookAction),
    /// Print a shell completion script
    #[command(
        after_help = "Examples:\n  swanci completions bash > ~/.local/share/bash-completion/completions/swanci\n  swanci completions zsh > ~/.zfunc/_swanci\n  swanci completions fish > ~/.config/fish/completions/swanci.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(after_help = "Example:\n  swanci man ~/.local/share/man/man1 && man swanci-build")]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

const REGISTRY: &str = "HOST[:PORT][/NAMESPACE]";
const WHERE_IMAGES_GO: &str = "Where images go [default: registry.host of the configuration]";

fn job_number(text: &str) -> Result<JobId, &'static str> {
    text.parse().map(JobId).map_err(|_| "a job has a number; `swanci jobs` lists them")
}

fn server_name(text: &str) -> Result<RegistryAddress, &'static str> {
    text.parse().map_err(|_| "it is neither a host name nor an address")
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "an address looks like 127.0.0.1:8080")
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The address to listen on [default: serve.listen of the configuration, else 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Run the queued jobs, then accept one merge, run it, and exit with its code
    #[arg(long)]
    pub once: bool,
    /// With --once: exit if no delivery queues a job within this time [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "once")]
    pub once_timeout: Option<Duration>,
    /// Concurrent merges; 0 accepts and queues without running [default: serve.jobs of the configuration, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=64))]
    pub jobs: Option<u16>,
    /// The webhook secret [default: serve.secret_file of the configuration, else $SWANCI_SECRET]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Also allow this repository; repeatable
    #[arg(long, value_name = "OWNER/NAME", value_parser = full_name)]
    pub repository: Vec<RepoName>,
    /// Serve GET /metrics and /readyz here [default: serve.admin_listen of the configuration, else nowhere]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,
    #[arg(long, value_name = REGISTRY, help = WHERE_IMAGES_GO)]
    pub registry: Option<RegistryAddress>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, the newest first
    #[command(
        after_help = "Examples:\n  swanci jobs list\n  swanci jobs list --state failed --repository acme/shop\n  swanci jobs list --json | jq '.jobs[0]'"
    )]
    List(JobsList),
    /// Show the details of a job
    #[command(after_help = "Example:\n  swanci jobs show 17")]
    Show {
        /// The job's number
        #[arg(value_parser = job_number)]
        id: JobId,
    },
    /// Print a job's log
    #[command(after_help = "Examples:\n  swanci jobs log 17\n  swanci jobs log 17 --follow")]
    Log {
        /// The job's number
        #[arg(value_parser = job_number)]
        id: JobId,
        /// Print new lines until the job has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Queue a failed or cancelled job again
    #[command(after_help = "Example:\n  swanci jobs retry 17")]
    Retry {
        /// The job's number
        #[arg(value_parser = job_number)]
        id: JobId,
    },
    /// Cancel a job; a running one is stopped
    #[command(after_help = "Example:\n  swanci jobs cancel 17")]
    Cancel {
        /// The job's number
        #[arg(value_parser = job_number)]
        id: JobId,
    },
}

#[derive(Debug, Default, Args)]
pub(crate) struct JobsList {
    /// Only jobs in this state: queued, running, succeeded, failed or cancelled [default: all]
    #[arg(long, value_name = "STATE")]
    pub state: Option<JobState>,
    /// Only jobs of this repository [default: all]
    #[arg(long, value_name = "OWNER/NAME")]
    pub repository: Option<RepoName>,
    /// List no more than N jobs [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Certs {
    /// The registry's host names and addresses; localhost and 127.0.0.1 are added
    #[arg(value_name = "NAME", required = true, value_parser = server_name)]
    pub name: Vec<RegistryAddress>,
    /// The folder of the certificates
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The registry, as in image names
    #[arg(value_name = "HOST[:PORT]")]
    pub registry: RegistryAddress,
    /// The authority's certificate
    #[arg(long, value_name = "FILE", default_value = "certs/ca.crt")]
    pub ca: PathBuf,
    /// The engine's folder for authorities
    #[arg(long, value_name = "DIR", default_value = "/etc/docker/certs.d")]
    pub dir: PathBuf,
    /// Remove the authority
    #[arg(long)]
    pub remove: bool,
}
