//! Changes and needs as text: their identifiers, in JSON and on the command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::change::Change;
use super::{Need, changes};

/// A name that is no change's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no change of the kernel that the table knows; `ptediff changes` lists them")]
pub struct UnknownChange(String);

/// What stands before the change that a kernel must not have.
const NOT: &str = "not ";

impl FromStr for Change {
    type Err = UnknownChange;

    fn from_str(identifier: &str) -> Result<Self, UnknownChange> {
        let known = changes().find(|info| info.identifier == identifier).map(|info| info.change);
        known.ok_or_else(|| UnknownChange(identifier.to_owned()))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.info().identifier)
    }
}

impl FromStr for Need {
    type Err = UnknownChange;

    fn from_str(text: &str) -> Result<Self, UnknownChange> {
        match text.strip_prefix(NOT) {
            Some(identifier) => Ok(Self::Without(identifier.parse()?)),
            None => Ok(Self::With(text.parse()?)),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::With(change) => write!(formatter, "{change}"),
            Self::Without(change) => write!(formatter, "{NOT}{change}"),
        }
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Need {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Need {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
