//! The tool `review.hunks`.
