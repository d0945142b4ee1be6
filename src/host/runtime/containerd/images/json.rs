//! JSON as Go reads it, which is what images, registries and credential files are tried out with: keys without
//! regard to case, the last of two values, `null` for the zero value, unknown fields passed over.
//!
//! Objects that come twice are merged where they are structures or maps, as Go does it.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    self, Deserialize as _, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Error;
use serde_json::value::RawValue;

/// Items that a list or an object may have: in memory an empty one takes a hundred times its text.
const MAX_ITEMS: usize = 10_000;

/// Reads a document. A field that may be missing needs a default.
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let text = legible(bytes);
    let whole: &RawValue = serde_json::from_str(&text)?;
    T::deserialize(Values(vec![whole]))
}

/// Reads the first document, whatever comes after it: what Go does with files and answers.
pub(super) fn first<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let text = legible(bytes);
    let first = <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(&text))?;
    T::deserialize(Values(vec![first]))
}

/// Returns the text, with U+FFFD for bytes that are no UTF-8, and for half of a character that takes two escapes.
fn legible(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    let code = |text: &str| u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let mut halves = Vec::new();
    let mut position = 0;
    while let Some(found) = text[position..].find('\\') {
        position += found;
        match code(&text[position..]) {
            Some(0xd800..=0xdbff)
                if code(&text[position + 6..]).is_some_and(|low| (0xdc00..=0xdfff).contains(&low)) =>
            {
                position += 12;
            }
            Some(0xd800..=0xdfff) => {
                halves.push(position);
                position += 6;
            }
            // What is escaped may be a backslash, and is one byte long in any document.
            _ => position += 1 + text[position + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if halves.is_empty() {
        return text;
    }
    let mut text = text.into_owned();
    for half in halves {
        text.replace_range(half..half + 6, "\\ufffd");
    }
    text.into()
}

/// Values of one key, in the order of the text.
struct Values<'a>(Vec<&'a RawValue>);

impl<'a> Values<'a> {
    /// Returns the last value; `null` counts for nothing.
    fn last(&self) -> Option<&'a str> {
        self.0.iter().rev().map(|raw| raw.get()).find(|text| !is_null(text))
    }

    /// Returns whether `null` came last, which takes back what may be missing: a pointer, a list, a map.
    fn is_taken_back(&self) -> bool {
        self.0.last().is_none_or(|raw| is_null(raw.get()))
    }

    /// Returns the members of all objects.
    fn members(&self) -> Result<Vec<(String, &'a RawValue)>, Error> {
        let mut all = Vec::new();
        for raw in self.0.iter().filter(|raw| !is_null(raw.get())) {
            let Members(members) = serde_json::from_str(raw.get())?;
            all.extend(members);
        }
        Ok(all)
    }
}

fn too_many<E: de::Error>() -> E {
    E::custom(format_args!("more than {MAX_ITEMS} items in one list or object"))
}

fn is_null(text: &str) -> bool {
    text == "null"
}

/// Returns whether a key of the text means this field.
fn means(key: &str, field: &str) -> bool {
    let fold = |text: &str| -> Cow<'_, str> {
        // Two letters beyond ASCII are small forms of letters in it.
        if text.is_ascii() {
            text.to_owned().into()
        } else {
            text.replace('ſ', "s").replace('\u{212a}', "k").into()
        }
    };
    fold(key).eq_ignore_ascii_case(&fold(field))
}

macro_rules! scalars {
    ($($method:ident, $visit:ident, $zero:expr;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.last() {
                Some(text) => serde_json::Deserializer::from_str(text).$method(visitor),
                None => visitor.$visit($zero),
            }
        }
    )* };
}

impl<'de> Deserializer<'de> for Values<'de> {
    type Error = Error;

    scalars! {
        deserialize_bool, visit_bool, false;
        deserialize_i64, visit_i64, 0;
        deserialize_u64, visit_u64, 0;
        deserialize_str, visit_str, "";
        deserialize_string, visit_str, "";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.last() {
            None => visitor.visit_unit(),
            Some(text) if text.starts_with('[') => self.deserialize_seq(visitor),
            Some(text) if text.starts_with('{') => self.deserialize_map(visitor),
            Some(text) => serde_json::Deserializer::from_str(text).deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_taken_back() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items: Vec<&RawValue> = match self.last() {
            Some(text) if !self.is_taken_back() => serde_json::from_str(text)?,
            _ => Vec::new(),
        };
        if items.len() > MAX_ITEMS {
            return Err(too_many());
        }
        visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(|item| Values(vec![item]))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let start = self.0.iter().rposition(|raw| is_null(raw.get())).map_or(0, |null| null + 1);
        let members = Values(self.0[start..].to_vec()).members()?;
        visitor
            .visit_map(MapDeserializer::new(members.into_iter().map(|(key, raw)| (key, Values(vec![raw])))))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut found: Vec<(&'static str, Values<'de>)> = Vec::new();
        for (key, raw) in self.members()? {
            let exact = fields.iter().find(|field| **field == key);
            let Some(field) = exact.or_else(|| fields.iter().find(|field| means(&key, field))) else {
                continue;
            };
            match found.iter_mut().find(|(known, _)| known == field) {
                Some((_, values)) => values.0.push(raw),
                None => found.push((field, Values(vec![raw]))),
            }
        }
        visitor.visit_map(MapDeserializer::new(found.into_iter()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier
    }
}

impl<'de> IntoDeserializer<'de, Error> for Values<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The keys of one object in their order, each as often as it comes.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> de::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == MAX_ITEMS {
                        return Err(too_many());
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Document {
        text: String,
        number: u64,
        flag: bool,
        list: Vec<String>,
        labels: BTreeMap<String, String>,
        inner: Inner,
        pointer: Option<Inner>,
        diff_ids: Vec<Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Inner {
        first: String,
        second: String,
    }

    fn inner(first: &str, second: &str) -> Inner {
        Inner { first: first.into(), second: second.into() }
    }

    /// The values are those of `encoding/json` of Go 1.19.
    #[test]
    fn documents_are_read_as_go_reads_them() {
        let blank = Document::default;
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        for (text, want) in [
            ("{}", blank()),
            ("null", blank()),
            (r#"{"TEXT":"a"}"#, Document { text: "a".into(), ..blank() }),
            (r#"{"teXt":"a","text":"b"}"#, Document { text: "b".into(), ..blank() }),
            (r#"{"text":"b","teXt":"a"}"#, Document { text: "a".into(), ..blank() }),
            (r#"{"text":"b","text":null}"#, Document { text: "b".into(), ..blank() }),
            (r#"{"text":null,"number":null,"flag":null,"list":null,"labels":null,"inner":null}"#, blank()),
            ("{\"liſt\":[\"a\"]}", Document { list: vec!["a".into()], ..blank() }),
            (r#"{"list":["a"],"list":null}"#, blank()),
            (
                r#"{"list":["a"],"LIST":["b","c"]}"#,
                Document { list: vec!["b".into(), "c".into()], ..blank() },
            ),
            (r#"{"list":[null,"a"]}"#, Document { list: vec![String::new(), "a".into()], ..blank() }),
            (r#"{"number":3,"Number":4,"flag":true}"#, Document { number: 4, flag: true, ..blank() }),
            // Keys of a map are not the reader's, and keep their case.
            (
                r#"{"labels":{"a":"1","A":"2","a":"3","n":null}}"#,
                Document { labels: labels(&[("A", "2"), ("a", "3"), ("n", "")]), ..blank() },
            ),
            (
                r#"{"labels":{"a":"1"},"Labels":{"b":"2"}}"#,
                Document { labels: labels(&[("a", "1"), ("b", "2")]), ..blank() },
            ),
            (
                r#"{"labels":{"a":"1"},"labels":null,"labels":{"b":"2"}}"#,
                Document { labels: labels(&[("b", "2")]), ..blank() },
            ),
            (
                r#"{"inner":{"first":"1","FIRST":"2"},"Inner":{"second":"3"},"inner":null}"#,
                Document { inner: inner("2", "3"), ..blank() },
            ),
            (r#"{"pointer":{"first":"1"}}"#, Document { pointer: Some(inner("1", "")), ..blank() }),
            (r#"{"pointer":{"first":"1"},"pointer":null}"#, blank()),
            (
                r#"{"diffids":[{"first":"1"},null]}"#,
                Document { diff_ids: vec![inner("1", ""), inner("", "")], ..blank() },
            ),
            // What is not read may be anything.
            (r#"{"other":1e999,"more":{"text":[{}]},"text":"a"}"#, Document { text: "a".into(), ..blank() }),
            (" {\"text\" :\n\"a\\u00e4\"} ", Document { text: "aä".into(), ..blank() }),
            (
                r#"{"text":"\ud83d\ude00 \ud83d \ude00\ud83d"}"#,
                Document { text: "😀 � ��".into(), ..blank() },
            ),
            (r#"{"text":"\\ud83d\\\ud83d"}"#, Document { text: "\\ud83d\\�".into(), ..blank() }),
        ] {
            assert_eq!(from_slice::<Document>(text.as_bytes()).expect(text), want, "{text}");
        }
        let invalid = from_slice::<Document>(b"{\"text\":\"\xff\"}").expect("read");
        assert_eq!(invalid.text, "\u{fffd}");
    }

    #[test]
    fn what_comes_after_a_document_is_passed_over() {
        let read = |text: &str| first::<Document>(text.as_bytes()).map(|document| document.number);
        for text in [r#"{"number":3}"#, r#" {"number":3} {"number":4}"#, r#"{"number":3}]<!-- x -->"#] {
            assert_eq!(read(text).expect(text), 3, "{text}");
        }
        for text in ["", " ", "<{", r#"{"number":3"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_or_an_object_has_a_bound() {
        let list = |count| format!(r#"{{"diffIds":[{}]}}"#, vec!["{}"; count].join(","));
        let object = |count| format!("{{{}}}", vec![r#""other":0"#; count].join(","));
        for text in [list(MAX_ITEMS), object(MAX_ITEMS)] {
            from_slice::<Document>(text.as_bytes()).expect("as many as may be");
        }
        for text in [list(MAX_ITEMS + 1), object(MAX_ITEMS + 1)] {
            let error = from_slice::<Document>(text.as_bytes()).expect_err("too many").to_string();
            assert!(error.contains("more than 10000 items"), "{error}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "{} {}",
            r#"{"text":5}"#,
            r#"{"number":"5"}"#,
            r#"{"number":-1}"#,
            r#"{"number":1.5}"#,
            r#"{"flag":"true"}"#,
            r#"{"list":"a"}"#,
            r#"{"list":[1]}"#,
            r#"{"inner":[]}"#,
            r#"{"labels":[]}"#,
            r#"{"other":[1,]}"#,
        ] {
            assert!(from_slice::<Document>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
