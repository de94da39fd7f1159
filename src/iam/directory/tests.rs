//! The directory by itself.
