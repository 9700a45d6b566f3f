//! Which pcluster will run, with its launcher, its interpreter and its packages. Also the Node.js that CDK
//! will run, and the template that this pcluster would submit.
//!
//! - `console_script_text`: the texts of console scripts
//! - `discover`: every real pcluster that this user can reach
//! - `image_configuration`: the files that a call names, and which of them a check may read
//! - `interpreter`: the Python that runs pcluster, as interpreter.py describes it
//! - `launcher`: a console script → the Python that it names
//! - `locate`: PATH → the real pcluster
//! - `loop_guard`: recognises a pcluster that starts this shim again
//! - `node`: the Node.js that CDK will run
//! - `packages`: `sys.path` → installed distributions
//! - `places`: where installers keep environments
//! - `question`: starts a launcher that isn't a console script, to find out which Python it runs
//! - `record`: the files of an installed distribution, from its RECORD
//! - `synthesis`: the template that the real pcluster would submit
//! - `target`: a launcher → its interpreter, `sys.path` and environment variables

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
