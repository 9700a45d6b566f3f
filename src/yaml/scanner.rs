//! The depth of a YAML text before it is loaded. Pure.
//!
//! The text is scanned as the parser's own scanner does it (libyaml's `scanner.c`), because brackets and
//! dashes within quotes, comments and block scalars are no structure.

/// Levels of nesting: what `serde_yaml` and `serde_json` take too. Real templates have some 20.
const MAX_DEPTH: usize = 128;

/// `%TAG` and `%YAML` directives: the parser compares each tag with all of them.
const MAX_DIRECTIVES: usize = 16;

/// Characters of a simple key, as in libyaml.
const MAX_KEY: usize = 1024;

/// What the scanner has found in a text within the limits.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    pub has_aliases: bool,
    directives: usize,
}

/// Follows libyaml's scanner as far as structure goes. It ends early where libyaml reports an error.
#[derive(Debug)]
pub struct Scanner {
    text: Vec<char>,
    at: usize,
    column: usize,
    /// Open flow collections.
    flow: usize,
    /// Columns of the open block collections.
    blocks: Vec<usize>,
    may_begin_key: bool,
    /// Position and column of the simple key that may end at the next `:`.
    key: Option<(usize, usize)>,
    scanned: Scanned,
}

impl Scanner {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            // Like every control character, NUL is an error to libyaml.
            text: text.chars().take_while(|letter| *letter != '\0').collect(),
            at: 0,
            column: 0,
            flow: 0,
            blocks: Vec::new(),
            may_begin_key: true,
            key: None,
            scanned: Scanned::default(),
        }
    }

    /// Scans the whole text.
    ///
    /// # Errors
    /// Returns an error if the text is nested too deeply, or has too many directives.
    pub fn scan(mut self) -> Result<Scanned, String> {
        loop {
            self.skip_space();
            if self.key.is_some_and(|(begin, _)| self.at > begin + MAX_KEY) {
                self.key = None;
            }
            self.close_blocks(self.column);
            if self.at >= self.text.len() || !self.take_token() {
                return Ok(self.scanned);
            }
            if self.flow + self.blocks.len() > MAX_DEPTH {
                return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
            }
            if self.scanned.directives > MAX_DIRECTIVES {
                return Err(format!("it has more than {MAX_DIRECTIVES} directives"));
            }
        }
    }

    /// The end of the text reads as NUL, as it does for libyaml.
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn advance(&mut self, count: usize) {
        self.at += count;
        self.column += count;
    }

    fn take_break(&mut self) {
        self.at += if self.peek(0) == '\r' && self.peek(1) == '\n' { 2 } else { 1 };
        self.column = 0;
        self.key = None;
    }

    fn skip_line(&mut self) {
        while !ends_line(self.peek(0)) {
            self.advance(1);
        }
    }

    fn skip_space(&mut self) {
        loop {
            match self.peek(0) {
                ' ' => self.advance(1),
                '\u{feff}' if self.column == 0 => self.advance(1),
                '\t' if self.flow > 0 || !self.may_begin_key => self.advance(1),
                '#' => self.skip_line(),
                letter if is_break(letter) => {
                    self.take_break();
                    self.may_begin_key |= self.flow == 0;
                }
                _ => return,
            }
        }
    }

    /// Skips a token. Returns false at an error, where libyaml stops.
    fn take_token(&mut self) -> bool {
        let (first, next) = (self.peek(0), self.peek(1));
        let in_flow = self.flow > 0;
        match first {
            '%' if self.column == 0 => {
                self.scanned.directives += 1;
                self.skip_line();
            }
            _ if self.is_document_marker() => {
                self.close_blocks(0);
                self.blocks.clear();
                self.may_begin_key = false;
                self.advance(3);
            }
            '[' | '{' => {
                self.begin_key();
                self.flow += 1;
                self.may_begin_key = true;
                self.advance(1);
            }
            ']' | '}' => {
                self.flow = self.flow.saturating_sub(1);
                self.may_begin_key = false;
                self.advance(1);
            }
            ',' => {
                self.may_begin_key = true;
                self.advance(1);
            }
            '-' if is_blank_or_end(next) => return self.open_block_entry(),
            '?' if in_flow || is_blank_or_end(next) => return self.open_explicit_key(),
            ':' if in_flow || is_blank_or_end(next) => return self.open_value(),
            '*' | '&' => {
                self.scanned.has_aliases |= first == '*';
                self.begin_key();
                self.advance(1);
                self.skip_while(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-'));
            }
            '!' => self.take_tag(),
            '|' | '>' if !in_flow => return self.take_block_scalar(),
            '\'' | '"' => self.take_quoted(first),
            '@' | '`' | '%' | '|' | '>' | '\t' => return false,
            _ => self.take_plain(),
        }
        true
    }

    fn is_document_marker(&self) -> bool {
        self.column == 0
            && is_blank_or_end(self.peek(3))
            && matches!([self.peek(0), self.peek(1), self.peek(2)], ['-', '-', '-'] | ['.', '.', '.'])
    }

    fn open_block(&mut self, column: usize) {
        if self.flow == 0 && self.blocks.last().is_none_or(|open| *open < column) {
            self.blocks.push(column);
        }
    }

    fn close_blocks(&mut self, column: usize) {
        while self.flow == 0 && self.blocks.last().is_some_and(|open| *open > column) {
            self.blocks.pop();
        }
    }

    fn begin_key(&mut self) {
        if self.may_begin_key && self.flow == 0 {
            self.key = Some((self.at, self.column));
        }
        self.may_begin_key = false;
    }

    fn open_block_entry(&mut self) -> bool {
        let is_allowed = self.flow > 0 || self.may_begin_key;
        if self.flow == 0 {
            self.key = None;
        }
        self.open_block(self.column);
        self.may_begin_key = true;
        self.advance(1);
        is_allowed
    }

    fn open_explicit_key(&mut self) -> bool {
        let is_allowed = self.flow > 0 || self.may_begin_key;
        self.open_block(self.column);
        if self.flow == 0 {
            self.key = None;
        }
        self.may_begin_key = self.flow == 0;
        self.advance(1);
        is_allowed
    }

    fn open_value(&mut self) -> bool {
        let mut is_allowed = true;
        if self.flow > 0 {
            self.may_begin_key = false;
        } else if let Some((_, column)) = self.key.take() {
            self.open_block(column);
            self.may_begin_key = false;
        } else {
            is_allowed = self.may_begin_key;
            self.open_block(self.column);
            self.may_begin_key = true;
        }
        self.advance(1);
        is_allowed
    }

    fn skip_while(&mut self, is_part: impl Fn(char) -> bool) {
        while is_part(self.peek(0)) {
            self.advance(1);
        }
    }

    fn take_tag(&mut self) {
        self.begin_key();
        self.advance(1);
        let is_verbatim = self.peek(0) == '<';
        let is_in_uri =
            |letter: char| letter.is_ascii_alphanumeric() || "_-;/?:@&=+$.%!~*'()".contains(letter);
        self.skip_while(|letter| is_in_uri(letter) || is_verbatim && "<>,[]".contains(letter));
    }

    fn take_quoted(&mut self, quote: char) {
        self.begin_key();
        self.advance(1);
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (letter, next) if letter == quote && next == quote && quote == '\'' => self.advance(2),
                (letter, _) if letter == quote => return self.advance(1),
                ('\\', next) if quote == '"' && !is_break(next) => self.advance(2),
                (letter, _) if is_break(letter) => self.take_break(),
                _ => self.advance(1),
            }
        }
    }

    fn take_plain(&mut self) {
        self.begin_key();
        let indent = self.blocks.last().map_or(0, |open| open + 1);
        loop {
            if self.is_document_marker() || self.peek(0) == '#' {
                return;
            }
            while !is_blank_or_end(self.peek(0)) {
                let (letter, next) = (self.peek(0), self.peek(1));
                if letter == ':' && is_blank_or_end(next) || self.flow > 0 && ",[]{}".contains(letter) {
                    return;
                }
                self.advance(1);
            }
            let mut has_ended_line = false;
            while self.at < self.text.len() && is_blank_or_end(self.peek(0)) {
                if is_break(self.peek(0)) {
                    self.take_break();
                    has_ended_line = true;
                } else {
                    self.advance(1);
                }
            }
            self.may_begin_key |= has_ended_line;
            if self.at >= self.text.len() || self.flow == 0 && self.column < indent {
                return;
            }
            self.may_begin_key = false;
        }
    }

    /// Skips the header of a block scalar, and every line that is indented as its content.
    fn take_block_scalar(&mut self) -> bool {
        self.key = None;
        self.may_begin_key = true;
        self.advance(1);
        let mut increment = 0;
        for _ in 0..2 {
            match self.peek(0) {
                '+' | '-' => self.advance(1),
                digit @ '1'..='9' => {
                    increment = digit as usize - '0' as usize;
                    self.advance(1);
                }
                _ => break,
            }
        }
        self.skip_while(|letter| letter == ' ' || letter == '\t');
        if self.peek(0) == '#' {
            self.skip_line();
        }
        if !ends_line(self.peek(0)) {
            return false;
        }
        self.skip_content(increment);
        true
    }

    fn skip_content(&mut self, increment: usize) {
        let parent = self.blocks.last().copied();
        let least = parent.map_or(1, |open| open + 1);
        let given = (increment > 0).then(|| parent.unwrap_or(0) + increment);
        let mut widest = 0;
        self.take_break();
        // The indentation is that of the first line that is not blank, or of a wider blank one above it.
        while self.at < self.text.len() {
            while self.peek(0) == ' ' && given.is_none_or(|indent| self.column < indent) {
                self.advance(1);
            }
            widest = widest.max(self.column);
            if !is_break(self.peek(0)) {
                break;
            }
            self.take_break();
        }
        let indent = given.unwrap_or(widest.max(least));
        while self.column == indent && self.at < self.text.len() {
            self.skip_line();
            while is_break(self.peek(0)) {
                self.take_break();
                while self.peek(0) == ' ' && self.column < indent {
                    self.advance(1);
                }
            }
        }
    }
}

fn is_break(letter: char) -> bool {
    matches!(letter, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn ends_line(letter: char) -> bool {
    letter == '\0' || is_break(letter)
}

fn is_blank_or_end(letter: char) -> bool {
    matches!(letter, ' ' | '\t') || ends_line(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;
    use proptest::prelude::*;
    use serde_yaml::Value;

    const DEEP: &str = "it is nested deeper than 128 levels";

    fn scan(text: &str) -> Result<Scanned, String> {
        Scanner::new(text).scan()
    }

    #[test]
    fn what_nests_too_deeply_is_refused_before_it_is_loaded() {
        let indented: String = (0..400).map(|depth| " ".repeat(depth) + "a:\n").collect();
        for unit in [
            "[",
            "{",
            "{a: ",
            "[a: ",
            "[? ",
            "{? ",
            "{\"a\":",
            "- ",
            "? ",
            "- - ",
            "[a, b, {c: ",
            "['",
            "[''",
            "[\"\\\"\"",
            "[!t ",
            "[&a ",
            "!t [",
            "# [\u{2028}[",
            "[#\n",
            "[x#",
            "[\u{feff}",
        ] {
            let deep = unit.repeat(1000);
            assert_eq!(scan(&deep).unwrap_err(), DEEP, "{unit}");
        }
        assert_eq!(scan(&indented).unwrap_err(), DEEP);
        // Past a line's first column a byte order mark is a letter, and `#` behind it no comment.
        let maps = "{a: ".repeat(1000);
        for begin in ["{\u{feff}#: ", "x:\n \u{feff}# ", "\u{feff}\u{feff}%\n--- "] {
            assert_eq!(scan(&format!("{begin}{maps}")).unwrap_err(), DEEP, "{begin:?}");
        }
        assert_eq!(parse::<Value>(&"[".repeat(1 << 20)).unwrap_err(), DEEP);
        assert_eq!(parse::<Value>(&"{a: ".repeat(1 << 18)).unwrap_err(), DEEP);
    }

    #[test]
    fn what_only_looks_like_structure_is_none() {
        let deep = "[".repeat(1000);
        for text in [
            format!("a: |\n  {deep}\n  # {deep}\n\n  {deep}\nb: c\n"),
            format!("a: |\n\n    \n\n    {deep}\nb: c\n"),
            format!("a: >-\n  {deep}"),
            format!("a: |2-\n    {deep}\n  {deep}\nb: c\n"),
            format!("- - a: !Sub |+ # {deep}\n      {deep}\n  - >\n   {deep}\n"),
            format!("a: {{b: c}}\nd: |\n {deep}\n"),
            format!("- |\n {deep}\n-\n  |\n  {deep}\n"),
            format!("a: 'it''s {deep}'\nb: \"\\\" {deep} \\\\\"\nc: ['{deep}', \"{deep}\"]\n"),
            format!("a: # {deep}\n  b # {deep}\n"),
            format!("a: b{deep}\nc: d\n   {deep}\n"),
            format!("'a\n {deep}'\n"),
            format!("a: \"x\n  {deep}\\\n  {deep}\"\n"),
            format!("? |\n  {deep}\n: |\n  {deep}\n"),
        ] {
            assert_eq!(scan(&text).map(|_| ()), Ok(()), "{text}");
            assert!(parse::<Value>(&text).is_ok(), "{text}: {:?}", parse::<Value>(&text));
        }
    }

    #[test]
    fn what_ends_is_not_counted_any_more() {
        let flat = (0..1000).fold(String::new(), |text, number| text + &format!("- a{number}: [{{b: c}}]\n"));
        assert_eq!(scan(&flat), Ok(Scanned::default()));
        assert_eq!(scan(&"---\na:\n  b:\n    c: d\n".repeat(1000)), Ok(Scanned::default()));
        assert_eq!(scan(&"a:\n  - b\n  -\n    - c: d\n".repeat(1000)), Ok(Scanned::default()));
    }

    #[test]
    fn directives_are_few() {
        let many = (0..1000).fold(String::new(), |text, number| text + &format!("%TAG !a{number}! tag:x\n"));
        assert_eq!(parse::<Value>(&(many + "---\na: b\n")).unwrap_err(), "it has more than 16 directives");
        assert!(parse::<Value>("%YAML 1.1\n%TAG !a! tag:x\n---\na: !a!b c\n").is_ok());
    }

    fn depth(value: &Value) -> usize {
        match value {
            Value::Sequence(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
            Value::Mapping(map) => {
                1 + map.iter().map(|(key, value)| depth(key).max(depth(value))).max().unwrap_or(0)
            }
            Value::Tagged(tagged) => depth(&tagged.value),
            _ => 0,
        }
    }

    /// The greatest depth that the scanner counts.
    fn count_depth(text: &str) -> usize {
        let (mut scanner, mut greatest) = (Scanner::new(text), 0);
        loop {
            scanner.skip_space();
            scanner.close_blocks(scanner.column);
            if scanner.at >= scanner.text.len() || !scanner.take_token() {
                return greatest;
            }
            greatest = greatest.max(scanner.flow + scanner.blocks.len());
        }
    }

    fn fragment() -> impl Strategy<Value = String> {
        let fragments = [
            "[", "]", "{", "}", ",", ": ", ":", "- ", "-", "? ", "\n", "\n  ", "\n    ", "\n      ", " ",
            "a", "b", "'", "\"", "#", " #", "|\n", ">-\n", "|2\n", "!t ", "!", "&a ", "\\", "é", "\u{2028}",
            "x: ", "y:\n  ", "- z: ", "''", "\t", "---\n", "%",
        ];
        proptest::sample::select(fragments.to_vec()).prop_map(str::to_owned)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// The scanner does not count the level of a sequence that is indented as little as its key, and
        /// of a pair within brackets.
        #[test]
        fn the_depth_is_that_of_the_parser(fragments in proptest::collection::vec(fragment(), 0..40)) {
            let text = fragments.concat();
            let (Ok(value), counted) = (serde_yaml::from_str::<Value>(&text), count_depth(&text)) else { return Ok(()) };
            let depth = depth(&value);
            prop_assert!(depth <= 2 * counted, "{:?}: {} is counted as {}", text, depth, counted);
            prop_assert!(counted <= depth, "{:?}: {} is counted as {}", text, depth, counted);
        }
    }
}
