//! Just enough of Rust's lexical structure to tell code from comments and strings.

/// A word, `::`, or one other character of code; a string or character literal is one token `""`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// From 1.
    pub line: usize,
}

pub fn lex(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or('\0');
        let end = match c {
            '/' if next == '/' => find(&chars, at, |rest| rest[0] == '\n'),
            '/' if next == '*' => block_comment(&chars, at),
            '"' => string(&chars, at + 1),
            '\'' if next == '\\' => find(&chars, at + 3, |rest| rest[0] == '\'') + 1,
            '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
            ':' if next == ':' => at + 2,
            _ if c.is_alphanumeric() || c == '_' => {
                let end = find(&chars, at, |rest| !(rest[0].is_alphanumeric() || rest[0] == '_'));
                raw_string(&chars, at, end).unwrap_or(end)
            }
            _ => at + 1,
        };
        let end = end.min(chars.len());
        let text: String = chars[at..end].iter().collect();
        let comment = text.starts_with("//") || text.starts_with("/*");
        let literal = text.contains('"') || (text.starts_with('\'') && text.len() > 1);
        if literal && !comment {
            tokens.push(Token { text: "\"\"".to_owned(), line });
        } else if !comment && !c.is_whitespace() {
            tokens.push(Token { text: text.clone(), line });
        }
        line += text.matches('\n').count();
        at = end;
    }
    tokens
}

/// The first index from `at` where `stop` holds, or the end.
fn find(chars: &[char], at: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    (at..chars.len()).find(|&i| stop(&chars[i..])).unwrap_or(chars.len())
}

fn block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Behind the closing quote of a string whose content starts at `at`.
fn string(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Behind a raw string (`r"`, `br##"`) or a byte or C string, if the word at `at..end` begins one.
fn raw_string(chars: &[char], at: usize, end: usize) -> Option<usize> {
    let word: String = chars[at..end].iter().collect();
    if !matches!(word.as_str(), "r" | "br" | "cr" | "b" | "c") {
        return None;
    }
    let quote = find(chars, end, |rest| rest[0] != '#');
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    if matches!(word.as_str(), "b" | "c") {
        return (quote == end).then(|| string(chars, quote + 1));
    }
    let hashes = quote - end;
    let closing =
        |rest: &[char]| rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|&c| c == '#');
    Some(find(chars, quote + 1, closing) + 1 + hashes)
}

#[test]
fn literals_and_comments_are_not_code() {
    let words = |source: &str| lex(source).into_iter().map(|t| t.text).collect::<Vec<_>>();
    assert_eq!(words("a::b // c\n/* d /* e */ f */g"), ["a", "::", "b", "g"]);
    assert_eq!(
        words(r###"x("y\"z", r#"u"v"#, b"w", b'\'', 'q', '"')"###).join(" ").matches("\"\"").count(),
        6
    );
    assert_eq!(words("fn f<'a>(x: &'a u8)").iter().filter(|w| *w == "a").count(), 2);
    assert_eq!(lex("\"one\ntwo\"\nx").last().map(|t| t.line), Some(3));
}
