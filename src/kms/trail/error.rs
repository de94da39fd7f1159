//! The errors of CloudTrail's operations, under AWS's names.

/// The kind of an error of CloudTrail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrailErrorKind {
    /// InvalidEventCategoryException.
    InvalidEventCategory,
    /// InvalidLookupAttributesException.
    InvalidLookupAttributes,
    /// InvalidMaxResultsException.
    InvalidMaxResults,
    /// InvalidNextTokenException.
    InvalidNextToken,
    /// InvalidTimeRangeException.
    InvalidTimeRange,
    /// InvalidTokenException.
    InvalidToken,
    /// TrailNotFoundException.
    TrailNotFound,
}

impl TrailErrorKind {
    /// AWS's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidEventCategory => "InvalidEventCategoryException",
            Self::InvalidLookupAttributes => "InvalidLookupAttributesException",
            Self::InvalidMaxResults => "InvalidMaxResultsException",
            Self::InvalidNextToken => "InvalidNextTokenException",
            Self::InvalidTimeRange => "InvalidTimeRangeException",
            Self::InvalidToken => "InvalidTokenException",
            Self::TrailNotFound => "TrailNotFoundException",
        }
    }
}
