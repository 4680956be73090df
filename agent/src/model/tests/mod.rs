//! Tables from the specification, section 8.
