//! What AWS says about the parent image, the components and the network of a build → findings. Pure.
//!
//! - [`facts`]: what to ask AWS about the build that a template describes, and the answers
//! - [`system`]: the operating system of an image, by its name and its owner
//! - [`image`]: the rules on the parent image
//! - [`build`]: the rules on components and network

pub mod build;
pub mod facts;
pub mod image;
pub mod system;
