//! cofferdam-test-guests
