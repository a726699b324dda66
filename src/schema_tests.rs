//! What is published below docs/ and comes from the types: the JSON Schemas, and the keys of the configuration.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use crate::config::RawConfig;
use crate::documents::{BuiltDocument, DecisionDocument, Receipt};
use crate::manifest::File;
use crate::pipeline::catchup::CatchupDocument;
use crate::pipeline::verify::Verification;

/// With this variable the files are written instead of compared.
const UPDATE: &str = "UPDATE_SCHEMAS";

fn printed<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

fn read<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>()
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    for (name, title, schema) in [
        ("decision", "The document of swanci evaluate", printed::<DecisionDocument>()),
        ("built", "The document of swanci build", printed::<BuiltDocument>()),
        ("receipt", "The document of swanci push and swanci run", printed::<Receipt>()),
        ("verification", "The document of swanci verify", printed::<Verification>()),
        ("catchup", "The document of swanci catchup", printed::<CatchupDocument>()),
        ("images", "images.json at the root of a repository", read::<File<'_>>()),
        ("swanci.toml", "swanci.toml, the configuration", read::<RawConfig>()),
    ] {
        let mut schema = schema;
        schema.insert("title".to_owned(), title.into());
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = folder.join(format!("{name}.schema.json"));
        if std::env::var_os(UPDATE).is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == text,
            "{} is out of date; run: {UPDATE}=1 cargo test --lib schemas",
            path.display()
        );
    }
}

/// The keys as the reference names them: `build.jobs`, `forge.url`, `state_dir`.
fn keys(schema: &Schema) -> BTreeSet<String> {
    let definitions = schema.get("$defs").and_then(serde_json::Value::as_object).unwrap();
    let mut keys = BTreeSet::new();
    for (name, property) in schema.get("properties").and_then(serde_json::Value::as_object).unwrap() {
        let reference = property.get("$ref").or_else(|| property.pointer("/items/$ref"));
        let section =
            reference.and_then(serde_json::Value::as_str).and_then(|at| at.strip_prefix("#/$defs/"));
        match section.map(|section| definitions[section]["properties"].as_object().unwrap()) {
            Some(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            None => _ = keys.insert(name.clone()),
        }
    }
    keys
}

#[test]
fn the_reference_names_the_keys_of_the_configuration_and_no_others() {
    let page = include_str!("../docs/reference.md");
    let section = page.split_once("\n## Configuration\n").unwrap().1.split_once("\n## ").unwrap().0;
    let table = section.split_once("| key | environment |").unwrap().1.split_once("\n\n").unwrap().0;
    let named: BTreeSet<String> =
        table.lines().skip(2).map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    let known = keys(&read::<RawConfig>());
    assert!(known.len() > 20, "{known:?}");
    assert_eq!(named, known);
}
