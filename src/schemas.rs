//! The JSON Schemas below docs/schemas/ are generated from the types, and this test keeps them equal.

use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

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
        ("images", "images.json at the root of a repository", read::<File>()),
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
