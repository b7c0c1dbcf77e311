//! cofferdam-plugins
