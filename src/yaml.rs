//! YAML text → a value, at a cost that is bounded by its length.
//!
//! The parser loads a whole document before its own limit of depth counts, and each token costs it
//! a look at every open flow collection; an alias costs what it stands for. So a text is scanned
//! for its depth first, in the way of the parser's own scanner (libyaml's `scanner.c`): what looks
//! like structure within quotes, comments and block scalars is none. What aliases would make of it
//! is weighed before it is made.

use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::{Deserializer, de};
use std::cell::Cell;
use std::fmt;

/// Levels of nesting: what `serde_yaml` and `serde_json` take too. Real templates have some 20.
const MAX_DEPTH: usize = 128;

/// Nodes and bytes of a document whose aliases are replaced by what they stand for. No document of
/// 1 MB without aliases comes near it.
const MAX_EXPANDED: usize = 4 << 20;

/// `%TAG` and `%YAML`: each tag costs the parser a look at all of them.
const MAX_DIRECTIVES: usize = 16;

/// A simple key ends on the line on which it begins, within so many characters.
const MAX_KEY: usize = 1024;

/// Reads a document.
///
/// # Errors
/// Returns what is wrong with it, and where: no YAML, no `T`, or more than a parser should be given.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // A mark of the encoding is no part of the text, and the parser takes it for a document of its own.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let scanned = Scanner::new(text).scan()?;
    if scanned.has_aliases {
        let room = Cell::new(MAX_EXPANDED);
        // A fault of the document is told by the second reading.
        let _ = Weigh(&room).deserialize(serde_yaml::Deserializer::from_str(text));
        if room.get() == 0 {
            return Err("its aliases stand for more than 4 MB".into());
        }
    }
    serde_yaml::from_str(text).map_err(|error| describe(&error))
}

/// serde's words for the parts of a file, and those of the people who write one.
const IN_WORDS: [(&str, &str); 8] = [
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    ("unknown variant", "unknown value"),
    ("expected field identifier", "expected a key"),
    ("expected a YAML tag starting with '!'", "expected a word"),
    ("expected path string", "expected a path"),
    ("expected a sequence", "expected a list"),
    ("invalid type: enum", "invalid type: tag"),
];

/// What is wrong with a YAML file, with its line.
fn describe(error: &serde_yaml::Error) -> String {
    IN_WORDS.iter().fold(error.to_string(), |text, (theirs, words)| text.replace(theirs, words))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Scanned {
    has_aliases: bool,
    directives: usize,
}

/// Follows libyaml's scanner as far as structure goes. It ends early where libyaml reports an error.
struct Scanner {
    text: Vec<char>,
    at: usize,
    column: usize,
    /// Open flow collections.
    flow: usize,
    /// Columns of the open block collections.
    blocks: Vec<usize>,
    may_begin_key: bool,
    /// Where the simple key that may end at the next `:` began: position and column.
    key: Option<(usize, usize)>,
    scanned: Scanned,
}

impl Scanner {
    fn new(text: &str) -> Self {
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

    fn scan(mut self) -> Result<Scanned, String> {
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

    /// Whether there is a token, as opposed to an error at which libyaml stops.
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
        let allowed = self.flow > 0 || self.may_begin_key;
        if self.flow == 0 {
            self.key = None;
        }
        self.open_block(self.column);
        self.may_begin_key = true;
        self.advance(1);
        allowed
    }

    fn open_explicit_key(&mut self) -> bool {
        let allowed = self.flow > 0 || self.may_begin_key;
        self.open_block(self.column);
        if self.flow == 0 {
            self.key = None;
        }
        self.may_begin_key = self.flow == 0;
        self.advance(1);
        allowed
    }

    fn open_value(&mut self) -> bool {
        let mut allowed = true;
        if self.flow > 0 {
            self.may_begin_key = false;
        } else if let Some((_, column)) = self.key.take() {
            self.open_block(column);
            self.may_begin_key = false;
        } else {
            allowed = self.may_begin_key;
            self.open_block(self.column);
            self.may_begin_key = true;
        }
        self.advance(1);
        allowed
    }

    fn skip_while(&mut self, is_part: impl Fn(char) -> bool) {
        while is_part(self.peek(0)) {
            self.advance(1);
        }
    }

    fn take_tag(&mut self) {
        self.begin_key();
        self.advance(1);
        let verbatim = self.peek(0) == '<';
        let in_uri = |letter: char| letter.is_ascii_alphanumeric() || "_-;/?:@&=+$.%!~*'()".contains(letter);
        self.skip_while(|letter| in_uri(letter) || verbatim && "<>,[]".contains(letter));
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
            let mut on_other_line = false;
            while self.at < self.text.len() && is_blank_or_end(self.peek(0)) {
                if is_break(self.peek(0)) {
                    self.take_break();
                    on_other_line = true;
                } else {
                    self.advance(1);
                }
            }
            self.may_begin_key |= on_other_line;
            if self.at >= self.text.len() || self.flow == 0 && self.column < indent {
                return;
            }
            self.may_begin_key = false;
        }
    }

    /// Header, then every line that is indented enough.
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
        // The first line that is not blank decides, or a wider blank one above it.
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

/// Takes a document's nodes and bytes, aliases replaced, from the room that is left; fails at 0.
#[derive(Clone, Copy)]
struct Weigh<'a>(&'a Cell<usize>);

impl Weigh<'_> {
    fn take<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        self.0.set(self.0.get().saturating_sub(1 + bytes));
        if self.0.get() == 0 { Err(E::custom("too large")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Weigh<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Weigh<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.take(0)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<(), E> {
        self.take(0)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<(), E> {
        self.take(0)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.take(text.len())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.take(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        self.take(0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry_seed(self, self)?.is_some() {}
        self.take(0)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let ((), value) = tagged.variant_seed(self)?;
        value.newtype_variant_seed(self)
    }
}

/// A value that is no list and no mapping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    Text(&'a str),
    Bool(bool),
    Number(u64),
}

/// Reads a scalar by a function of one's own, inside the visitor: only there does a refusal get its
/// line and its key.
///
/// # Errors
/// Returns an error if it is no scalar, or `read` refuses it: in its own words, or with `None` in
/// those of `expected`.
pub fn scalar<'de, D: Deserializer<'de>, T>(
    from: D,
    expected: &str,
    read: impl FnOnce(Scalar) -> Result<T, Option<String>>,
) -> Result<T, D::Error> {
    struct Reader<'a, F> {
        expected: &'a str,
        read: F,
    }

    impl<T, F: FnOnce(Scalar) -> Result<T, Option<String>>> Reader<'_, F> {
        fn read<E: de::Error>(self, scalar: Scalar, found: de::Unexpected) -> Result<T, E> {
            (self.read)(scalar).map_err(|refusal| match refusal {
                Some(words) => E::custom(words),
                None => E::invalid_value(found, &self.expected),
            })
        }
    }

    impl<T, F: FnOnce(Scalar) -> Result<T, Option<String>>> de::Visitor<'_> for Reader<'_, F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            self.read(Scalar::Text(text), de::Unexpected::Str(text))
        }

        fn visit_bool<E: de::Error>(self, flag: bool) -> Result<T, E> {
            self.read(Scalar::Bool(flag), de::Unexpected::Bool(flag))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.read(Scalar::Number(number), de::Unexpected::Unsigned(number))
        }
    }

    from.deserialize_any(Reader { expected, read })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_yaml::Value;

    const DEEP: &str = "it is nested deeper than 128 levels";

    fn scan(text: &str) -> Result<Scanned, String> {
        Scanner::new(text).scan()
    }

    #[test]
    fn what_nests_too_deeply_is_refused_before_it_is_loaded() {
        let stairs: String = (0..400).map(|depth| " ".repeat(depth) + "a:\n").collect();
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
        assert_eq!(scan(&stairs).unwrap_err(), DEEP);
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
    fn aliases_are_weighed() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            laughs.push_str(&["a", &level.to_string(), ": &a", &level.to_string(), " ["].concat());
            laughs.push_str(&([before.as_str(); 8].join(", ") + "]\n"));
        }
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(100_000));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(100_000));
        // The parser has a limit of its own for one alias within the other.
        assert_eq!(parse::<Value>(&laughs).unwrap_err(), "repetition limit exceeded");
        for text in [wide, long] {
            assert_eq!(parse::<Value>(&text).unwrap_err(), "its aliases stand for more than 4 MB");
        }
        let value: Value = parse("a: &a {b: !Ref c}\nd: *a\n").unwrap();
        assert_eq!(value["a"], value["d"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(parse::<Value>("\u{feff}a: b\n"), parse("a: b\n"));
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
    fn counted(text: &str) -> usize {
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

    fn word() -> impl Strategy<Value = String> {
        let words = [
            "[", "]", "{", "}", ",", ": ", ":", "- ", "-", "? ", "\n", "\n  ", "\n    ", "\n      ", " ",
            "a", "b", "'", "\"", "#", " #", "|\n", ">-\n", "|2\n", "!t ", "!", "&a ", "\\", "é", "\u{2028}",
            "x: ", "y:\n  ", "- z: ", "''", "\t", "---\n", "%",
        ];
        proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// What the parser accepts is counted as it is: an entry of a sequence that stands as far
        /// left as its key, and a pair within brackets, have a level that is not counted.
        #[test]
        fn the_depth_is_the_parsers(words in proptest::collection::vec(word(), 0..40)) {
            let text = words.concat();
            let (Ok(value), counted) = (serde_yaml::from_str::<Value>(&text), counted(&text)) else { return Ok(()) };
            let depth = depth(&value);
            prop_assert!(depth <= 2 * counted, "{:?}: {} is counted as {}", text, depth, counted);
            prop_assert!(counted <= depth, "{:?}: {} is counted as {}", text, depth, counted);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = parse::<Value>(&text);
        }
    }
}
