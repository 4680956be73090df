//! Names, types, labels and buckets.
