//! cofferdam-blobs
