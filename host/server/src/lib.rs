//! cofferdam-server
