//! cofferdam-deploy
