//! Who will run and what is in it: the real pcluster, its interpreter, packages, Node.js and template.

pub mod console_script_text;
pub mod discover;
pub mod image_configuration;
pub mod interpreter;
pub mod launcher;
pub mod locate;
pub mod loop_guard;
pub mod node;
pub mod packages;
pub mod places;
pub mod question;
pub mod record;
pub mod synthesis;
pub mod target;
