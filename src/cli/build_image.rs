//! The plain form of a call of `build-image`, read without the real parser.

use std::ffi::OsString;
use std::path::PathBuf;

/// A call of `build-image` with every option written out and followed by its value.
///
/// The real parser alone knows every form of a call, but it has to be run in a Python. This one serves the
/// decisions before that: it accepts nothing that the real parser would read differently, and returns
/// `None` for the rest.
#[derive(Debug, PartialEq, Eq)]
pub struct PlainBuildImage {
    pub configuration: PathBuf,
}

impl PlainBuildImage {
    /// Reads a call. `has_short_options`: `-c`, `-i` and `-r` exist from aws-parallelcluster 3.1.1 on.
    #[must_use]
    pub fn read(arguments: &[OsString], has_short_options: bool) -> Option<Self> {
        let mut arguments = arguments.iter().map(|argument| argument.to_str());
        if arguments.next()?? != "build-image" {
            return None;
        }
        let (mut configuration, mut image_id) = (None, None);
        while let Some(argument) = arguments.next() {
            let (option, joined) = match argument?.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, Some(value)),
                _ => (argument?, None),
            };
            if option == "--debug" && joined.is_none() {
                continue;
            }
            let value = match joined {
                Some(value) => value,
                None => arguments.next()??,
            };
            if value.is_empty() || value.starts_with('-') {
                return None;
            }
            match option {
                "--image-configuration" => configuration = Some(value),
                "-c" if has_short_options => configuration = Some(value),
                "--image-id" => image_id = Some(value),
                "-i" if has_short_options => image_id = Some(value),
                "--region" | "--query" => {}
                "-r" if has_short_options => {}
                "--dryrun" | "--rollback-on-failure" if matches!(value, "true" | "false") => {}
                _ => return None,
            }
        }
        image_id.filter(|id| is_image_id(id))?;
        Some(Self { configuration: configuration?.into() })
    }
}

/// Whether an id matches `^[a-zA-Z][a-zA-Z0-9-]+$`, the pattern in the specification of pcluster's API.
fn is_image_id(id: &str) -> bool {
    id.len() > 1
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|other| other.is_ascii_alphanumeric() || other == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_plain_form_is_read_and_everything_else_is_left_to_the_real_parser() {
        let plain = |line: &str| PlainBuildImage::read(&split(&format!("build-image {line}")), true);
        let file = |name: &str| Some(PlainBuildImage { configuration: name.into() });
        assert_eq!(plain("-c f -i my-image"), file("f"));
        assert_eq!(plain("--image-configuration=f --image-id my-image -r eu-west-1 --debug"), file("f"));
        assert_eq!(plain("-c f -c g -i ab --dryrun true"), file("g"));
        for left in [
            "",
            "-h",
            "-c f",
            "-i ab",
            "-cf -i ab",
            "-c=f -i ab",
            "--image-conf f -i ab",
            "-c f -i 1ab",
            "-c f -i a",
            "-c f -i ab -c",
            "-c f -i ab x",
            "-c f -i ab --dryrun maybe",
            "-c f -i ab --suppress-validators ALL",
            "-c -x -i ab",
        ] {
            assert_eq!(plain(left), None, "{left}");
        }
        assert_eq!(PlainBuildImage::read(&split("build-image -c f -i ab"), false), None);
    }
}
