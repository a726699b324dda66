//! `swanci init`: names and help.

use std::path::PathBuf;

use clap::Args;

use crate::model::{RegistryAddress, RepoName};

/// What to write down; what is not given is asked at a terminal.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where images go
    #[arg(long, value_name = "HOST[:PORT][/NAMESPACE]")]
    pub registry: Option<RegistryAddress>,
    /// A repository whose merges are built; repeatable
    #[arg(long, value_name = "OWNER/NAME", value_parser = super::hook::full_name)]
    pub repository: Vec<RepoName>,
    /// Only merges into a branch that matches, for every repository given; repeatable
    #[arg(long, value_name = "GLOB")]
    pub branch: Vec<String>,
    /// Where to clone the (one) repository from instead of the payload's URL
    #[arg(long, value_name = "URL")]
    pub clone_url: Option<String>,
    /// The webhook's secret: made here, or used as it is where the file is there [default: DIR/secret, made]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Make a certificate authority and the registry's certificate under DIR/certs
    #[arg(long)]
    pub certs: bool,
    /// The folder to write into
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Ask nothing; so it is too where standard input is no terminal
    #[arg(short, long)]
    pub yes: bool,
}
