//! How AWS's JSON writes blobs and times.

/// Base64.
pub mod blob {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}

/// Base64 of what must not stay in memory.
pub mod blob_secret {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};
    use zeroize::Zeroizing;

    use crate::crypto::SecretVec;

    pub fn serialize<S: Serializer>(bytes: &SecretVec, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Zeroizing::new(STANDARD.encode(bytes.expose())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretVec, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        // The decoder's own error would show a character of the secret.
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| de::Error::custom("not base64"))?;
        Ok(SecretVec::new(bytes))
    }
}

/// Seconds since 1970 with thousandths.
pub mod seconds {
    use jiff::Timestamp;
    use serde::Serializer;

    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_millisecond() as f64 / 1000.0)
    }
}

/// The same, or nothing.
pub mod seconds_option {
    use jiff::Timestamp;
    use serde::Serializer;

    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::seconds::serialize(time, to),
            None => to.serialize_none(),
        }
    }
}

/// Seconds as a request gives them.
pub mod seconds_given {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, de};

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        let Some(seconds) = Option::<f64>::deserialize(from)? else { return Ok(None) };
        // A number beyond the range of times is cut to it, and refused there.
        Timestamp::from_millisecond((seconds * 1000.0).round() as i64).map(Some).map_err(de::Error::custom)
    }
}
