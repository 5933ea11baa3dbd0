//! Free-form values: JSON whose strings may be templates, each with its place.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::at::{At, Entries};
use crate::workflow::template::is_template;

/// A value as it stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `null`, a boolean or a number.
    Scalar(Value),
    /// Text, which may be a template.
    Text(String),
    /// A list.
    List(Vec<At<Data>>),
    /// A mapping.
    Map(Entries<At<Data>>),
}

impl Data {
    /// The value, if nothing in it is a template.
    pub fn constant(&self) -> Option<Value> {
        match self {
            Self::Scalar(value) => Some(value.clone()),
            Self::Text(text) => (!is_template(text)).then(|| Value::String(text.clone())),
            Self::List(items) => items.iter().map(|item| item.constant()).collect(),
            Self::Map(entries) => {
                let pair =
                    |(key, value): &(At<String>, At<Data>)| Some((key.value.clone(), value.constant()?));
                entries.iter().map(pair).collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Data, E> {
        Ok(Data::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Data, E> {
        Ok(Data::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Data, E> {
        Ok(Data::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Data, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number here must be finite"))?;
        Ok(Data::Scalar(Value::Number(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Data, E> {
        Ok(Data::Text(text.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Data, E> {
        Ok(Data::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Data, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        Data::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Data::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Data::Map(Entries(entries)))
    }
}

impl JsonSchema for Data {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Data".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "Any value; text may hold expressions: {{ steps.ID.output }}." })
    }
}
