//! argv and environment → what was asked.

pub mod args;
pub mod env_vars;
pub mod settings;
