//! Entry points for the targets of `fuzz/` into modules that are private.

use std::collections::BTreeMap;

use crate::manifest::dockerfile::DockerfileStages;

pub fn images(bytes: &[u8]) {
    let _ = crate::manifest::each(bytes).map(Iterator::count);
}

pub fn dockerfile(text: &str) {
    let Ok(stages) = DockerfileStages::parse(text, &BTreeMap::new()) else { return };
    let names = stages
        .bases()
        .iter()
        .map(|base| ((*base).to_owned(), "registry.example.org/base".to_owned()))
        .collect();
    let rewritten = stages.rewritten(text, &names, "other");
    assert_eq!(rewritten.matches('\n').count(), text.matches('\n').count());
}

pub fn config(text: &str) {
    crate::config::read_text(text);
}
