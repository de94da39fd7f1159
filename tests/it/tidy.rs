//! The house's order, kept by a test: who may import whom, how long a file may be, what every `unsafe`
//! owes its reader, and that the code and docs/format.md name one format version.
//!
//! Each checker takes sources, not paths, so that the tests at the end can show it a culprit.

mod lexer;

use std::fs;
use std::path::{Path, PathBuf};

use lexer::{Token, lex};

/// The layers, lowest first. A layer names only layers of lower rows; layers of one row never name
/// each other. The same table stands in docs/architecture.md.
const LAYERS: &[&[&str]] = &[
    &["crypto"],
    &["store"],
    &["iam"],
    &["audit"],
    &["kms"],
    &["volume", "client"],
    &["mount", "api", "snapshot"],
    &["cli"],
];

/// Lines of code a file may have before its tests.
const LONGEST: usize = 600;

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// The module path of a file below src, without its name for mod.rs: `kms/store.rs` is `["kms", "store"]`.
fn module_of(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Imports upwards and across in one file below src. lib.rs and main.rs stand above all layers.
fn imports(path: &str, source: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(layer) = module.first().cloned() else { return Vec::new() };
    let Some(own) = rank(&layer) else {
        return vec![format!("{path}: `{layer}` is not in the table of layers in tests/it/tidy.rs")];
    };
    let mut found = Vec::new();
    for (line, target) in references(&module, &lex(source)) {
        if target == layer {
            continue;
        }
        match rank(&target) {
            Some(other) if other < own => {}
            Some(other) => {
                let how = if other == own { "across" } else { "upwards" };
                found.push(format!("{path}:{line}: {layer} imports {how}: {target}"));
            }
            None => found.push(format!("{path}:{line}: {layer} names crate::{target}, which is no layer")),
        }
    }
    found
}

/// The top-level modules that a file's `crate::`, `self::` and `super::` paths reach, with their lines.
fn references(module: &[String], tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Open braces; a named one is an inline module.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let text = tokens[i].text.as_str();
        let starts = tokens.get(i + 1).is_some_and(|t| t.text == "::")
            && (i == 0 || tokens[i - 1].text != "::")
            && matches!(text, "crate" | "super" | "self");
        if starts {
            let mut here: Vec<String> = module.to_vec();
            here.extend(open.iter().flatten().cloned());
            collect(&here, &[], tokens, i, &mut found);
        }
        match text {
            "mod" if tokens.get(i + 2).is_some_and(|t| t.text == "{") => {
                open.push(Some(tokens[i + 1].text.clone()));
                i += 2;
            }
            "{" => open.push(None),
            "}" => {
                open.pop();
            }
            _ => {}
        }
        i += 1;
    }
    found.sort();
    found.dedup();
    found
}

/// Follows one path, or tree of paths, from `tokens[at]`; answers the index behind it.
fn collect(
    here: &[String],
    prefix: &[String],
    tokens: &[Token],
    mut at: usize,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        if token.text == "{" && !path.is_empty() {
            at += 1;
            while tokens.get(at).is_some_and(|t| t.text != "}") {
                let next = collect(here, &path, tokens, at, found);
                at =
                    if tokens.get(next).is_some_and(|t| t.text == ",") { next + 1 } else { next.max(at + 1) };
            }
            return at + 1;
        }
        path.push(token.text.clone());
        at += 1;
        if tokens.get(at).is_some_and(|t| t.text == "as") {
            at += 2;
        }
        if tokens.get(at).is_none_or(|t| t.text != "::") {
            break;
        }
        at += 1;
    }
    let line = tokens.get(at.saturating_sub(1)).map_or(0, |t| t.line);
    let mut resolved: Vec<String> = Vec::new();
    for (nth, part) in path.iter().enumerate() {
        match part.as_str() {
            "crate" => resolved.clear(),
            "self" if nth == 0 => resolved = here.to_vec(),
            "super" => {
                if nth == 0 {
                    resolved = here.to_vec();
                }
                resolved.pop();
            }
            "self" => {}
            other => resolved.push(other.to_owned()),
        }
    }
    // A path that ends at the crate root (`use crate::Thing` is a module's name all the same).
    if let Some(top) = resolved.first() {
        found.push((line, top.clone()));
    }
    at
}

/// Lines that hold code, up to a test module.
fn code_lines(source: &str) -> usize {
    let tokens = lex(source);
    let tests = tokens.windows(8).position(|w| {
        let text: Vec<&str> = w.iter().map(|t| t.text.as_str()).collect();
        text == ["#", "[", "cfg", "(", "test", ")", "]", "mod"]
    });
    let mut lines: Vec<usize> = tokens[..tests.unwrap_or(tokens.len())].iter().map(|t| t.line).collect();
    lines.dedup();
    lines.len()
}

fn too_long(path: &str, source: &str) -> Vec<String> {
    let lines = code_lines(source);
    if lines > LONGEST {
        vec![format!("{path}: {lines} lines of code, over {LONGEST}: split it by what it does")]
    } else {
        Vec::new()
    }
}

/// Placeholders: a layer is built or it is absent.
fn placeholders(path: &str, source: &str) -> Vec<String> {
    let tokens = lex(source);
    let macros = tokens
        .windows(2)
        .filter(|w| matches!(w[0].text.as_str(), "todo" | "unimplemented") && w[1].text == "!")
        .map(|w| format!("{path}:{}: {}!", w[0].line, w[0].text));
    let notes = source
        .lines()
        .enumerate()
        .filter(|(_, text)| text.contains("FIXME"))
        .map(|(at, _)| format!("{path}:{}: FIXME", at + 1));
    macros.chain(notes).collect()
}

/// `unsafe` without a `SAFETY:` in the two lines above it or in the comment that ends there.
fn unexplained_unsafe(path: &str, source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let mut culprits: Vec<usize> =
        lex(source).iter().filter(|t| t.text == "unsafe").map(|t| t.line).collect();
    culprits.dedup();
    culprits
        .into_iter()
        .filter(|&line| {
            let above = &lines[..line - 1];
            let near = above.iter().rev().take(2).any(|text| text.contains("SAFETY:"));
            let comment = above
                .iter()
                .rev()
                .take_while(|text| text.starts_with("//") || text.starts_with("#["))
                .any(|text| text.contains("SAFETY:"));
            !near && !comment
        })
        .map(|line| format!("{path}:{line}: unsafe without `// SAFETY:` directly above"))
        .collect()
}

/// The number that a `FORMAT_VERSION` constant is given.
fn version_in_code(source: &str) -> Option<u64> {
    let tokens = lex(source);
    let at = tokens.windows(2).position(|w| w[0].text == "const" && w[1].text == "FORMAT_VERSION")?;
    let number = tokens[at..].iter().skip_while(|t| t.text != "=").nth(1)?;
    number.text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// The number on the `format-version:` line of the format's page.
fn version_in_docs(page: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix("format-version:"))?.trim().parse().ok()
}

fn versions(code: &[(String, String)], page: &str) -> Vec<String> {
    let in_code: Vec<u64> = code.iter().filter_map(|(_, source)| version_in_code(source)).collect();
    match (in_code.as_slice(), version_in_docs(page)) {
        ([code], Some(docs)) if *code == docs => Vec::new(),
        (code, docs) => vec![format!(
            "the format version in src/volume (FORMAT_VERSION: {code:?}) and in docs/format.md \
             (format-version: {docs:?}) must each be given once and agree"
        )],
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources below a folder of the repository, with paths relative to it.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(base: &Path, dir: &Path, out: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(base, &path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
                out.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let base = root().join(folder);
    let mut out = Vec::new();
    walk(&base, &base, &mut out);
    out.sort();
    assert!(!out.is_empty(), "no sources below {}", base.display());
    out
}

fn check(folder: &str, checker: fn(&str, &str) -> Vec<String>) {
    let found: Vec<String> =
        sources(folder).iter().flat_map(|(path, source)| checker(path, source)).collect();
    assert!(found.is_empty(), "in {folder}/:\n{}", found.join("\n"));
}

#[test]
fn layers_import_only_downwards() {
    check("src", imports);
}

#[test]
fn no_file_is_too_long() {
    check("src", too_long);
    check("tests", too_long);
}

#[test]
fn every_unsafe_says_why() {
    check("src", unexplained_unsafe);
    check("tests", unexplained_unsafe);
}

#[test]
fn nothing_is_left_as_a_placeholder() {
    check("src", placeholders);
}

#[test]
fn code_and_page_name_one_format_version() {
    let page = fs::read_to_string(root().join("docs/format.md")).unwrap();
    let found = versions(&sources("src/volume"), &page);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The checkers on made-up sources: each must find its culprit and leave the innocent alone.
mod proof {
    use super::*;

    #[test]
    fn an_import_upwards_is_found() {
        for source in [
            "use crate::volume::Volume;",
            "use crate::{crypto, volume::{Volume, disk}};",
            "use crate::{\n    crypto::Secret,\n    volume as v,\n};",
            "fn f() { let x = crate::volume::ROOT; }",
            "pub(crate) use super::super::volume::Volume;",
            "mod inner { use super::super::super::volume::X; }",
            "mod inner { fn f() {} } use super::super::volume::X;",
            "fn f(x: &dyn crate::volume::disk::Dir) {}",
        ] {
            let found = imports("kms/key.rs", source);
            assert_eq!(found.len(), 1, "{source}: {found:?}");
            assert!(found[0].contains("upwards: volume"), "{found:?}");
        }
    }

    #[test]
    fn an_import_across_is_found() {
        let found = imports("client/mod.rs", "use crate::volume::Volume;");
        assert_eq!(found, ["client/mod.rs:1: client imports across: volume"]);
        assert_eq!(imports("api.rs", "\nuse super::mount::X;"), ["api.rs:2: api imports across: mount"]);
    }

    #[test]
    fn an_unknown_layer_is_found() {
        assert!(imports("misc/mod.rs", "")[0].contains("not in the table"));
        assert!(imports("kms/mod.rs", "use crate::utils::x;")[0].contains("no layer"));
    }

    #[test]
    fn imports_downwards_and_inside_are_left_alone() {
        for source in [
            "use crate::crypto::Secret; use super::volume; use super::Inner;",
            "use crate::kms::{self, KmsError}; use crate::{audit, iam::Arn, kms};",
            "// use crate::volume::Volume\n/* crate::volume::x /* nested */ crate::cli */ fn f() {}",
            "const S: &str = \"crate::volume::x\"; const R: &str = r#\"use crate::cli; \"#;",
            "fn f<'a>(x: &'a str) -> char { '\"' } // crate::cli::x",
            "mod tests { use super::*; use super::super::audit; }",
            "/// See [`crate::volume::Volume`].\nfn f() { x::super_::y; }",
            "use other::crate_::volume::x; pub(crate) fn g() {} pub(in crate::kms) fn h() {}",
        ] {
            assert_eq!(imports("kms/key.rs", source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_are_not_counted() {
        let code = "let x = 1;\n";
        assert_eq!(too_long("a.rs", &code.repeat(600)), Vec::<String>::new());
        assert_eq!(too_long("a.rs", &code.repeat(601)).len(), 1);
        let comments = format!("{}// only words\n\n", code).repeat(600);
        assert_eq!(too_long("a.rs", &comments), Vec::<String>::new());
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", code.repeat(600), code.repeat(50));
        assert_eq!(too_long("a.rs", &tests), Vec::<String>::new());
        let hidden = format!("#[cfg(test)]\nuse x;\n{}", code.repeat(601));
        assert_eq!(too_long("a.rs", &hidden).len(), 1);
    }

    #[test]
    fn placeholders_are_found() {
        assert_eq!(placeholders("a.rs", "fn f() {\n    todo!()\n}"), ["a.rs:2: todo!"]);
        assert_eq!(placeholders("a.rs", "fn f() { unimplemented!(\"x\") }").len(), 1);
        assert_eq!(placeholders("a.rs", "// FIXME: later").len(), 1);
        assert_eq!(placeholders("a.rs", "// todo!() was here\nfn todo() {}"), Vec::<String>::new());
    }

    #[test]
    fn unexplained_unsafe_is_found() {
        assert_eq!(unexplained_unsafe("a.rs", "fn f() {\n    unsafe { g() }\n}").len(), 1);
        let far = "// SAFETY: of another\nlet a = 1;\nlet b = 2;\nlet c = unsafe { g() };";
        assert_eq!(unexplained_unsafe("a.rs", far).len(), 1);
        for good in [
            "// SAFETY: g takes anything\nlet a = unsafe { g() };",
            "// SAFETY: a long\n// reason of\n// three lines\nlet a = unsafe { g() };",
            "// unsafe in words\nlet a = \"unsafe\"; // unsafe",
            "#![forbid(unsafe_code)]",
        ] {
            assert_eq!(unexplained_unsafe("a.rs", good), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn differing_versions_are_found() {
        let code = |text: &str| vec![("layout.rs".to_owned(), text.to_owned())];
        let constant = "pub const FORMAT_VERSION: u16 = 1;";
        assert_eq!(versions(&code(constant), "# x\n\nformat-version: 1\n"), Vec::<String>::new());
        assert_eq!(versions(&code(constant), "format-version: 2\n").len(), 1);
        assert_eq!(versions(&code(constant), "no line\n").len(), 1);
        assert_eq!(versions(&code("const OTHER: u16 = 1;"), "format-version: 1\n").len(), 1);
        let twice = "const FORMAT_VERSION: u16 = 1;";
        let both = vec![("a.rs".to_owned(), twice.to_owned()), ("b.rs".to_owned(), twice.to_owned())];
        assert_eq!(versions(&both, "format-version: 1\n").len(), 1);
    }
}
