//! The width of a terminal, to which text for people is folded.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;

use crate::text::printable::fold;

/// The width of a report if the output is not a terminal.
pub const WIDTH: usize = 80;

/// The smallest and the largest width. Longer lines are hard to read. In shorter lines, a label leaves no
/// room for words.
const RANGE: (usize, usize) = (40, 100);

/// The width of a report on stdout.
pub fn width_of_stdout() -> usize {
    width_of(io::stdout()).unwrap_or(WIDTH)
}

/// The width of a stream if it is a terminal. `None` if the stream isn't a terminal, or if the terminal has
/// no size, as in some CI jobs.
pub fn width_of(stream: impl AsFd) -> Option<usize> {
    let columns = usize::from(tcgetwinsize(stream).ok()?.ws_col);
    (columns > 0).then(|| columns.clamp(RANGE.0, RANGE.1))
}

/// Folds lines at the width of a stream if it is a terminal. Otherwise a program may read the stream, so each
/// line stays in one piece.
pub fn fold_for<'a>(stream: impl AsFd, lines: &'a str, prefix: &str) -> Cow<'a, str> {
    width_of(stream).map_or(Cow::Borrowed(lines), |width| fold(lines, prefix, width).into())
}
