//! Texts of policies that stand for many: wildcards `*` and `?`, and variables `${key, 'default'}`.

use super::Context;

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Itself.
    Text(Box<str>),
    /// Any one character.
    One,
    /// Any characters, also none.
    Any,
    /// What the request says of a key; a default if it says nothing.
    Variable { key: Box<str>, default: Option<Box<str>> },
}

/// A text with its wildcards and variables found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pieces: Box<[Piece]>,
    variables: bool,
}

/// What a pattern's text may hold.
#[derive(Debug, Clone, Copy)]
pub struct Syntax {
    /// `*` and `?` are wildcards.
    pub wildcards: bool,
    /// `${...}` is a variable: in documents of version 2012-10-17.
    pub variables: bool,
}

impl Pattern {
    /// Reads a pattern; None if a variable in it is malformed.
    pub fn parse(text: &str, syntax: Syntax) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let special = match c {
                '*' if syntax.wildcards => Some((Piece::Any, &rest[1..])),
                '?' if syntax.wildcards => Some((Piece::One, &rest[1..])),
                '$' if syntax.variables && rest.starts_with("${") => {
                    let (inner, behind) = inside(&rest[2..])?;
                    match inner {
                        // The three that stand for themselves.
                        "*" | "?" | "$" => {
                            literal.push_str(inner);
                            rest = behind;
                            continue;
                        }
                        _ => Some((variable(inner)?, behind)),
                    }
                }
                _ => None,
            };
            let Some((piece, behind)) = special else {
                literal.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            // Two stars say no more than one.
            if !(piece == Piece::Any && pieces.last() == Some(&Piece::Any)) {
                pieces.push(piece);
            }
            rest = behind;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        let variables = pieces.iter().any(|p| matches!(p, Piece::Variable { .. }));
        Some(Self { pieces: pieces.into(), variables })
    }

    /// Does it hold variables?
    pub fn has_variables(&self) -> bool {
        self.variables
    }

    /// Does the whole text match? A variable without a value matches nothing, and a value matches as it is: a
    /// star in it is a star. Takes at most the product of the two lengths.
    pub fn matches(&self, text: &str, context: &Context) -> bool {
        self.run(text, context, |text, prefix| text.starts_with(prefix))
    }

    /// The same without regard to ASCII case.
    pub fn matches_any_case(&self, text: &str, context: &Context) -> bool {
        self.run(text, context, |text, prefix| {
            text.as_bytes().get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix.as_bytes()))
        })
    }

    /// The text without wildcards, variables put in; None if one has no value.
    pub fn text(&self, context: &Context) -> Option<String> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(t) => text.push_str(t),
                Piece::One => text.push('?'),
                Piece::Any => text.push('*'),
                Piece::Variable { key, default } => text.push_str(value(key, default.as_deref(), context)?),
            }
        }
        Some(text)
    }

    fn run(&self, text: &str, context: &Context, starts: impl Fn(&str, &str) -> bool) -> bool {
        // The two most frequent.
        match &*self.pieces {
            [Piece::Any] => return true,
            [Piece::Text(t)] => return text.len() == t.len() && starts(text, t),
            _ => {}
        }
        if self.variables && !self.pieces.iter().all(|p| has_value(p, context)) {
            return false;
        }
        // What matches is taken greedily; at a mismatch the last star takes one character more. Earlier stars
        // need not be tried again: whatever they could take, the last one can.
        let (mut piece, mut rest) = (0, text);
        let mut star: Option<(usize, &str)> = None;
        loop {
            let step = match self.pieces.get(piece) {
                Some(Piece::Any) => {
                    if piece + 1 == self.pieces.len() {
                        return true;
                    }
                    star = Some((piece + 1, rest));
                    Some(rest)
                }
                Some(Piece::One) => after_one(rest),
                Some(Piece::Text(t)) => after(rest, t, &starts),
                Some(Piece::Variable { key, default }) => {
                    value(key, default.as_deref(), context).and_then(|v| after(rest, v, &starts))
                }
                None if rest.is_empty() => return true,
                None => None,
            };
            if let Some(behind) = step {
                (piece, rest) = (piece + 1, behind);
                continue;
            }
            let Some((behind_star, from)) = star else { return false };
            let Some(from) = after_one(from) else { return false };
            star = Some((behind_star, from));
            (piece, rest) = (behind_star, from);
        }
    }
}

fn after_one(text: &str) -> Option<&str> {
    text.chars().next().and_then(|c| text.get(c.len_utf8()..))
}

fn after<'t>(text: &'t str, prefix: &str, starts: impl Fn(&str, &str) -> bool) -> Option<&'t str> {
    if starts(text, prefix) { text.get(prefix.len()..) } else { None }
}

/// A variable's value. A key with several values is none.
fn value<'v>(key: &str, default: Option<&'v str>, context: &'v Context) -> Option<&'v str> {
    match context.get(key) {
        Some([one]) => Some(one),
        _ => default,
    }
}

fn has_value(piece: &Piece, context: &Context) -> bool {
    match piece {
        Piece::Variable { key, default } => value(key, default.as_deref(), context).is_some(),
        Piece::Text(_) | Piece::One | Piece::Any => true,
    }
}

/// What stands before the closing brace, and what behind it. A brace between quotes is text.
fn inside(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '}' if !quoted => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

/// `key` or `key, 'default'`.
fn variable(inner: &str) -> Option<Piece> {
    let (key, default) = match inner.split_once(',') {
        Some((key, default)) => {
            let default = default.trim().strip_prefix('\'')?.strip_suffix('\'')?;
            if default.contains('\'') {
                return None;
            }
            (key, Some(default.into()))
        }
        None => (inner, None),
    };
    let key = key.trim();
    let allowed = |c: char| !c.is_whitespace() && !matches!(c, '$' | '{' | '*' | '?' | '\'' | '"');
    if key.is_empty() || !key.chars().all(allowed) {
        return None;
    }
    Some(Piece::Variable { key: key.to_ascii_lowercase().into(), default })
}

/// Splits a pattern's text at colons that do not stand in a variable, into at most six parts: an ARN's.
pub fn arn_parts(text: &str, variables: bool) -> Vec<&str> {
    let mut parts = Vec::with_capacity(6);
    let (mut start, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        if variables && text[at..].starts_with("${") {
            let Some((inner, _)) = inside(&text[at + 2..]) else { break };
            at += inner.len() + 3;
            continue;
        }
        if c == ':' && parts.len() < 5 {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        at += c.len_utf8();
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Syntax = Syntax { wildcards: true, variables: true };

    fn glob(pattern: &str) -> Pattern {
        Pattern::parse(pattern, ALL).unwrap()
    }

    /// The plain definition, exponential.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                reference(rest, text) || text.split_first().is_some_and(|(_, t)| reference(pattern, t))
            }
            (Some(('?', rest)), Some((_, t))) => reference(rest, t),
            (Some((c, rest)), Some((d, t))) => c == d && reference(rest, t),
            _ => false,
        }
    }

    #[test]
    fn variables_take_the_requests_values_as_they_are() {
        let context = Context::new().with("aws:username", "al*ce").with_all("aws:TagKeys", ["a", "b"]);
        for (pattern, text, expected) in [
            ("home/${aws:username}/*", "home/al*ce/x", true),
            ("home/${AWS:UserName}/*", "home/al*ce/x", true),
            ("home/${aws:username}/*", "home/alice/x", false),
            ("${aws:nobody}", "", false),
            ("*${aws:nobody}", "x", false),
            ("${aws:nobody, 'some one'}?", "some one!", true),
            ("${aws:nobody,'}'}", "}", true),
            ("${aws:nobody, ''}", "", true),
            ("${aws:TagKeys}", "a", false),
            ("${*}${?}${$}{x}", "*?${x}", true),
            ("${*}", "a", false),
            ("$x$", "$x$", true),
        ] {
            assert_eq!(glob(pattern).matches(text, &context), expected, "{pattern} {text}");
        }
        assert_eq!(glob("a${aws:username}*").text(&context).unwrap(), "aal*ce*");
        assert_eq!(glob("${aws:nobody}").text(&context), None);
    }

    #[test]
    fn malformed_variables_are_refused_and_older_documents_have_none() {
        for bad in
            ["${", "${}", "${ }", "${a b}", "${a, b}", "${a, 'b}", "${a", "${a'}", "${a, 'b'c'}", "${${a}}"]
        {
            assert_eq!(Pattern::parse(bad, ALL), None, "{bad}");
        }
        let old = Pattern::parse("${a}*", Syntax { wildcards: true, variables: false }).unwrap();
        assert!(old.matches("${a}b", &Context::new()) && !old.has_variables());
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = glob(&"a*".repeat(2000));
        let text = format!("{}b", "a".repeat(8000));
        assert!(pattern.matches(&text, &Context::new()));
        let pattern = glob(&format!("{}c", "*a".repeat(2000)));
        let started = std::time::Instant::now();
        assert!(!pattern.matches(&text, &Context::new()));
        assert!(started.elapsed().as_secs() < 5);
    }

    #[test]
    fn an_arn_is_split_outside_of_variables() {
        assert_eq!(arn_parts("arn:aws:iam::1:role/a:b", true), ["arn", "aws", "iam", "", "1", "role/a:b"]);
        assert_eq!(arn_parts("a:${aws:x}:b", true), ["a", "${aws:x}", "b"]);
        assert_eq!(arn_parts("${aws:x}", false), ["${aws", "x}"]);
    }

    proptest! {
        #[test]
        fn globs_agree_with_the_plain_definition(pattern in "[abé*?]{0,8}", text in "[abé]{0,10}") {
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(glob(&pattern).matches(&text, &Context::new()), reference(&p, &t));
            prop_assert_eq!(
                glob(&pattern).matches_any_case(&text.replace('a', "A"), &Context::new()), reference(&p, &t)
            );
        }

        #[test]
        fn arbitrary_patterns_never_panic(pattern in "([$?*{},' :a-cé]|\\$\\{){0,20}", text in "[$?*a-cé]{0,10}") {
            if let Some(p) = Pattern::parse(&pattern, ALL) {
                p.matches(&text, &Context::new().with("a", "b"));
            }
            prop_assert!(arn_parts(&pattern, true).len() <= 6);
        }
    }
}
