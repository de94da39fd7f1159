//! Names of accounts, regions, keys and aliases, as AWS writes them.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{CryptoError, random};

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IamError {
    /// Not twelve digits.
    #[error("{0:?} is not an account id: twelve digits, such as 000000000000")]
    AccountId(String),
    /// Not a region's form.
    #[error("{0:?} is not a region: lower case words and a number, such as us-east-1")]
    Region(String),
    /// Neither a UUID nor mrk- and 32 hex digits.
    #[error("{0:?} is not a key id")]
    KeyId(String),
    /// Not alias/ and 1 to 256 of the allowed characters.
    #[error("{0:?} is not an alias: alias/ and letters, digits, / _ and -, together at most 256")]
    AliasName(String),
    /// Not the ARN of a KMS key.
    #[error("Invalid arn {0}")]
    KeyArn(String),
    /// Not the ARN of a root, user, role or session.
    #[error(
        "{0:?} is not the ARN of a root, user, role or assumed-role session, such as arn:aws:iam::000000000000:user/alice"
    )]
    Principal(String),
    /// A policy document that is none: what is wrong, in AWS's words where it has any.
    #[error("{0}")]
    MalformedPolicy(String),
    /// A policy document of more characters than this.
    #[error("the policy is longer than {0} characters; make it shorter")]
    PolicyLength(usize),
}

/// Twelve digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(String);

impl FromStr for AccountId {
    type Err = IamError;

    fn from_str(s: &str) -> Result<Self, IamError> {
        let good = s.len() == 12 && s.bytes().all(|b| b.is_ascii_digit());
        if good { Ok(Self(s.to_owned())) } else { Err(IamError::AccountId(s.to_owned())) }
    }
}

/// A region such as us-east-1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(String);

impl FromStr for Region {
    type Err = IamError;

    fn from_str(s: &str) -> Result<Self, IamError> {
        let parts: Vec<&str> = s.split('-').collect();
        let word = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase());
        let good = match parts.split_last() {
            Some((number, words)) => {
                let number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
                s.len() <= 32 && number && words.len() >= 2 && words.iter().all(word)
            }
            None => false,
        };
        if good { Ok(Self(s.to_owned())) } else { Err(IamError::Region(s.to_owned())) }
    }
}

impl Region {
    /// The partition that the region's ARNs name.
    pub fn partition(&self) -> &'static str {
        if self.0.starts_with("cn-") {
            "aws-cn"
        } else if self.0.starts_with("us-gov-") {
            "aws-us-gov"
        } else {
            "aws"
        }
    }
}

/// 16 bytes: a UUID (version 4), or mrk- and 32 hex digits for a multi-Region key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    /// A multi-Region key.
    pub multi_region: bool,
    /// The number behind the text.
    pub bytes: [u8; 16],
}

impl KeyId {
    /// A fresh id.
    pub fn generate(multi_region: bool) -> Result<Self, CryptoError> {
        let mut bytes: [u8; 16] = random()?;
        if !multi_region {
            // RFC 9562 section 5.4: version and variant of a random UUID.
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
        }
        Ok(Self { multi_region, bytes })
    }
}

impl FromStr for KeyId {
    type Err = IamError;

    fn from_str(s: &str) -> Result<Self, IamError> {
        let bad = || IamError::KeyId(s.to_owned());
        let (multi_region, digits) = match s.strip_prefix("mrk-") {
            Some(digits) => (true, digits.to_owned()),
            None => {
                let dashes = [8, 13, 18, 23];
                if s.len() != 36 || dashes.iter().any(|&i| s.as_bytes()[i] != b'-') {
                    return Err(bad());
                }
                (false, s.replace('-', ""))
            }
        };
        // Upper case would be a second name of the same key.
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        let bytes = hex::decode(digits).ok().and_then(|b| b.try_into().ok()).ok_or_else(bad)?;
        Ok(Self { multi_region, bytes })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = hex::encode(self.bytes);
        if self.multi_region {
            write!(f, "mrk-{h}")
        } else {
            write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
        }
    }
}

/// alias/ and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasName(String);

impl AliasName {
    /// The prefix alias/aws/ belongs to keys that the service manages.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("alias/aws/")
    }
}

impl FromStr for AliasName {
    type Err = IamError;

    fn from_str(s: &str) -> Result<Self, IamError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-');
        let name = s.strip_prefix("alias/").filter(|n| !n.is_empty() && n.bytes().all(allowed));
        if name.is_some() && s.len() <= 256 {
            Ok(Self(s.to_owned()))
        } else {
            Err(IamError::AliasName(s.to_owned()))
        }
    }
}

/// arn:partition:kms:region:account:key/id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyArn {
    /// Where the key is.
    pub region: Region,
    /// Whose it is.
    pub account: AccountId,
    /// Which it is.
    pub key: KeyId,
}

impl FromStr for KeyArn {
    type Err = IamError;

    fn from_str(s: &str) -> Result<Self, IamError> {
        let bad = || IamError::KeyArn(s.to_owned());
        let parts: Vec<&str> = s.split(':').collect();
        let ["arn", partition, "kms", region, account, resource] = parts[..] else { return Err(bad()) };
        let region: Region = region.parse().map_err(|_| bad())?;
        let account = account.parse().map_err(|_| bad())?;
        let key = resource.strip_prefix("key/").and_then(|id| id.parse().ok()).ok_or_else(bad)?;
        if partition == region.partition() { Ok(Self { region, account, key }) } else { Err(bad()) }
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, account, key } = self;
        write!(f, "arn:{}:kms:{region}:{account}:key/{key}", region.partition())
    }
}

/// Names that are their text.
macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )*};
}

text!(AccountId, Region, AliasName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_come_back_as_they_were_written() {
        for arn in [
            "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
        ] {
            assert_eq!(arn.parse::<KeyArn>().unwrap().to_string(), arn);
        }
        let alias: AliasName = "alias/aws/kmsfs".parse().unwrap();
        assert!(alias.is_reserved());
        let id = KeyId::generate(false).unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().as_bytes()[14], b'4');
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "us-east", "us--1", "US-east-1", "1", "us-east-1-"] {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
        for bad in ["", "00000000000", "0000000000000", "00000000000x", "00000000000\u{664}"] {
            assert!(bad.parse::<AccountId>().is_err(), "{bad}");
        }
        for bad in ["alias/", "x", "alias/a b", "alias/\u{e9}"] {
            assert!(bad.parse::<AliasName>().is_err(), "{bad}");
        }
        assert!(format!("alias/{}", "a".repeat(251)).parse::<AliasName>().is_err());
        for bad in [
            "arn:aws:kms:us-east-1:000000000000:key/1234ABCD-12ab-34cd-56ef-1234567890ab",
            "arn:aws-cn:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:us-east-1:000000000000:alias/x",
            "arn:aws:kms:us-east-1:000000000000:key/mrk-12",
        ] {
            assert!(bad.parse::<KeyArn>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            if let Ok(id) = text.parse::<KeyId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn thirty_six_characters_of_any_kind_are_no_panic(text in "[-0-9a-fé]{36}") {
            if let Ok(id) = text.parse::<KeyId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
