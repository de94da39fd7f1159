//! What a request says of itself: condition keys and their values.

use std::collections::BTreeMap;

/// The values of condition keys, such as aws:PrincipalArn or kms:ViaService. Names are compared without case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    keys: BTreeMap<Box<str>, Vec<String>>,
}

impl Context {
    /// A request that says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says one value. A second one for the same key takes the first's place.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.keys.insert(key.to_ascii_lowercase().into(), vec![value.into()]);
    }

    /// Says the values of a key that can have several. No values are as if the key were not there.
    pub fn set_all<V: Into<String>>(&mut self, key: &str, values: impl IntoIterator<Item = V>) {
        let values = values.into_iter().map(Into::into).collect();
        self.keys.insert(key.to_ascii_lowercase().into(), values);
    }

    /// [`Self::set`], for a chain.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.set(key, value);
        self
    }

    /// [`Self::set_all`], for a chain.
    #[must_use]
    pub fn with_all<V: Into<String>>(mut self, key: &str, values: impl IntoIterator<Item = V>) -> Self {
        self.set_all(key, values);
        self
    }

    /// The values of a key, whose name is in lower case; None if there are none.
    pub(super) fn get(&self, key: &str) -> Option<&[String]> {
        self.keys.get(key).map(Vec::as_slice).filter(|values| !values.is_empty())
    }
}
