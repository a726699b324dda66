//! References and names: each valid one must print as it was parsed.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use swanci::model::{
    BranchName, CommitPrefix, CommitSha, Digest, ImageName, ImageRepository, RegistryAddress, RepoName, Tag,
};

fn round<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok(), Some(value)),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
}

fuzz_target!(|text: &str| {
    round::<RegistryAddress>(text);
    round::<ImageRepository>(text);
    round::<ImageName>(text);
    round::<Tag>(text);
    round::<Digest>(text);
    round::<RepoName>(text);
    round::<BranchName>(text);
    round::<CommitSha>(text);
    round::<CommitPrefix>(text);
});
