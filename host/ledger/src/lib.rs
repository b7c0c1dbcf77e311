//! cofferdam-ledger
