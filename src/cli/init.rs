//! The command line of `swanci init`.

use std::path::PathBuf;

use clap::Args;

use crate::model::{ForgeName, RegistryAddress, RepoName};

/// On a terminal, missing values are prompted for.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where images go [default: none, only local names]
    #[arg(long, value_name = "HOST[:PORT][/NAMESPACE]")]
    pub registry: Option<RegistryAddress>,
    /// The forge: github, gitlab, gitea, forgejo, gogs, bitbucket, bitbucket-server or gitbucket [default: github]
    #[arg(long, value_name = "KIND")]
    pub forge: Option<ForgeName>,
    /// The forge's URL [default: the public instance of its kind]
    #[arg(long, value_name = "URL", requires = "forge", value_parser = crate::config::forge_url)]
    pub forge_url: Option<String>,
    /// A repository whose merges are built; repeatable
    #[arg(long, value_name = "OWNER/NAME", value_parser = super::hook::full_name)]
    pub repository: Vec<RepoName>,
    /// Only merges into a matching branch, for every repository given; repeatable [default: every branch]
    #[arg(long, value_name = "GLOB")]
    pub branch: Vec<String>,
    /// Where to clone the (one) repository from [default: the forge]
    #[arg(long, value_name = "URL")]
    pub clone_url: Option<String>,
    /// The webhook's secret: an existing file is used, else it is created [default: DIR/secret, created]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Create a certificate authority and the registry's certificate in DIR/certs
    #[arg(long)]
    pub certs: bool,
    /// The folder to write into
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Never prompt (implied when standard input is not a terminal)
    #[arg(short, long)]
    pub yes: bool,
}
