//! The one configuration: typed, validated, every error with its mend.
