//! Reads the keys of one JSON object and notes every mistake with the place where it stands.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Map, Value};

/// An object from which keys are taken one by one; what remains at the end was not understood.
pub(super) struct Keys<'a> {
    place: String,
    object: Map<String, Value>,
    mistakes: &'a mut Vec<String>,
}

impl<'a> Keys<'a> {
    /// The keys of `value`, which stands at `place` in the file.
    pub(super) fn new(place: impl Into<String>, value: Value, mistakes: &'a mut Vec<String>) -> Self {
        let place = place.into();
        let object = match value {
            Value::Object(object) => object,
            other => {
                mistakes.push(format!("{place} is {}, not an object", shown(&other)));
                Map::new()
            }
        };
        Self { place, object, mistakes }
    }

    /// Takes `key`, if it is there and well formed.
    pub(super) fn take<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.object.remove(key)?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(right) => {
                self.mistake(key, format_args!("is {}, {right}", shown(&value)));
                None
            }
        }
    }

    /// Takes `key`, if it is there, as it is.
    pub(super) fn take_value(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key)
    }

    /// Notes what is wrong with `key`.
    pub(super) fn mistake(&mut self, key: &str, reason: impl std::fmt::Display) {
        let place = self.at(key);
        self.mistakes.push(format!("{place} {reason}"));
    }

    /// Reads the object or list under `key` with its own place.
    pub(super) fn mistakes(&mut self) -> &mut Vec<String> {
        self.mistakes
    }

    /// How `key` is called in messages.
    pub(super) fn at(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}: {key}", self.place) }
    }

    /// Refuses what was not taken: a key that is silently without effect is worse than an error.
    pub(super) fn refuse_rest(self, known: &str) {
        for key in self.object.keys() {
            let place = self.at(key);
            self.mistakes.push(format!("{place} is not supported here; there are {known}"));
        }
    }
}

/// A value as it stands in the file, short enough for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        format!("{}…", text.chars().take(60).collect::<String>())
    }
}

pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "not true or false".into())
}

pub(super) fn text(value: &Value) -> Result<String, String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| "not a text".into())
}

pub(super) fn list(value: &Value) -> Result<Vec<Value>, String> {
    value.as_array().cloned().ok_or_else(|| "not a list".into())
}

pub(super) fn address(value: &Value) -> Result<Ipv4Addr, String> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "not an IPv4 address such as 10.62.0.1".into())
}

pub(super) fn subnet(value: &Value) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "not an IPv4 network such as 10.62.0.0/16".to_owned())?;
    if net != net.trunc() { Err(format!("but that network is {}", net.trunc())) } else { Ok(net) }
}
