//! The grammar of rules and of Consul constraints: text to tree, nothing about what a matcher means.
//!
//! It takes what Go's expression parser, which Traefik uses, takes: `&&` binds tighter than `||`, `!` tightest; arguments in
//! back-quotes or double quotes (with Go's escapes); comments; a line may end after an operator or an opening parenthesis, but a
//! new one may not begin with an operator. What Traefik refuses is refused here too, so that every rule of ours goes back to it.

use super::spelling;
use super::{Argument, Call, InvalidRule, Node, Tree};

/// The longest rule that is read.
pub const RULE_BYTES_MAX: usize = 64 * 1024;

/// How deep parentheses and negations may nest.
const DEPTH_MAX: usize = 64;

/// A matcher that an expression may use.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its canonical name.
    pub name: &'static str,
    /// The fewest arguments it takes.
    pub args_min: usize,
    /// The most arguments it takes.
    pub args_max: usize,
    /// How it is written.
    pub usage: &'static str,
}

impl Known {
    /// The matcher `name` that takes from `args_min` to `args_max` arguments.
    pub const fn new(name: &'static str, args_min: usize, args_max: usize, usage: &'static str) -> Self {
        Self { name, args_min, args_max, usage }
    }

    /// Traefik takes a name as it is, in lower case, in UPPER case and in Title case (`Hostregexp`), and in no other.
    fn is_called(&self, written: &str) -> bool {
        let title = || {
            let (first, rest) = written.split_at_checked(1).unwrap_or((written, ""));
            first.bytes().all(|byte| byte.is_ascii_uppercase()) && !rest.bytes().any(|byte| byte.is_ascii_uppercase())
        };
        written == self.name
            || written.eq_ignore_ascii_case(self.name)
                && (!written.bytes().any(|byte| byte.is_ascii_uppercase())
                    || !written.bytes().any(|byte| byte.is_ascii_lowercase())
                    || title())
    }
}

/// Reads an expression over the matchers of `known`: a rule, or Consul's `constraints`.
pub fn parse_expression(text: &str, known: &'static [Known]) -> Result<Tree, InvalidRule> {
    if text.len() > RULE_BYTES_MAX {
        return Err(InvalidRule::new(0, format!("a rule has at most {RULE_BYTES_MAX} bytes, this one {}", text.len())));
    }
    let mut parser = Parser { text, at: 0, depth: 0, known };
    let root = parser.any()?;
    match parser.rest().chars().next() {
        None => Ok(Tree { length: text.len(), root }),
        Some(')') => Err(parser.wrong("`)` has no `(` before it")),
        Some(_) => Err(parser.no_operator()),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    known: &'static [Known],
}

impl<'t> Parser<'t> {
    fn any(&mut self) -> Result<Node, InvalidRule> {
        let mut nodes = vec![self.all()?];
        while self.eat("||") {
            nodes.push(self.all()?);
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self) -> Result<Node, InvalidRule> {
        let mut nodes = vec![self.operand()?];
        while self.eat("&&") {
            nodes.push(self.operand()?);
        }
        Ok(one_or(nodes, Node::All))
    }

    fn operand(&mut self) -> Result<Node, InvalidRule> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong(format!("parentheses and `!` nest deeper than {DEPTH_MAX}")));
        }
        self.space();
        let node = if self.eat("!") {
            Node::Not(Box::new(self.operand()?))
        } else if self.eat("(") {
            let node = self.any()?;
            if !self.eat(")") {
                return Err(self.unclosed());
            }
            self.space_after_operand()?;
            node
        } else {
            Node::Call(self.call()?)
        };
        self.depth -= 1;
        Ok(node)
    }

    /// `Name(args)` with the space after it.
    fn call(&mut self) -> Result<Call, InvalidRule> {
        let at = self.at;
        let written = self.word();
        if written.is_empty() {
            return Err(self.no_operand());
        }
        let Some(known) = self.known.iter().find(|known| known.is_called(written)) else {
            return Err(spelling::unknown(at, written, self.text, self.known));
        };
        self.space();
        if !self.eat("(") {
            return Err(spelling::no_arguments(self.at, known, self.text));
        }
        let args = self.arguments(known)?;
        if args.len() < known.args_min || args.len() > known.args_max {
            return Err(spelling::wrong_count(at, known, &args));
        }
        if let Some(empty) = args.iter().find(|arg| arg.text.is_empty()) {
            return Err(InvalidRule::new(empty.at, format!("an argument of `{}` is empty", known.name)));
        }
        self.space_after_operand()?;
        Ok(Call { name: known.name, args, at })
    }

    /// What stands between the parentheses, and the closing one. As in Go a last comma is allowed.
    fn arguments(&mut self, known: &Known) -> Result<Vec<Argument>, InvalidRule> {
        let mut args = Vec::new();
        loop {
            self.space();
            if self.eat(")") {
                return Ok(args);
            }
            let at = self.at;
            let text = match self.rest().chars().next() {
                Some('`') => self.raw()?,
                Some('"') => self.interpreted()?,
                _ => return Err(spelling::no_quotes(at, self.rest(), known)),
            };
            args.push(Argument { text, at });
            self.space_after_operand()?;
            if !self.eat(",") && !self.rest().starts_with(')') {
                return Err(self.wrong(format!(
                    "expected `,` or `)` after an argument of `{}`, found {}",
                    known.name,
                    self.found()
                )));
            }
        }
    }

    /// A back-quoted argument: as it stands, except that Go drops carriage returns.
    fn raw(&mut self) -> Result<String, InvalidRule> {
        let at = self.at;
        self.at += 1;
        let Some((body, _)) = self.rest().split_once('`') else {
            return Err(InvalidRule::new(at, "the back-quote that opens here is never closed"));
        };
        self.at += body.len() + 1;
        Ok(body.replace('\r', ""))
    }

    /// A double-quoted argument with Go's escapes.
    fn interpreted(&mut self) -> Result<String, InvalidRule> {
        let at = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let here = self.at;
            let Some(c) = self.next_char() else {
                return Err(InvalidRule::new(at, "the double quote that opens here is never closed"));
            };
            match c {
                '"' => break,
                '\n' => return Err(InvalidRule::new(here, "a double-quoted argument ends on its own line")),
                '\\' => self.escape(here, &mut bytes)?,
                _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|error| InvalidRule::new(at, format!("the argument is not UTF-8: {error}")))
    }

    fn escape(&mut self, at: usize, bytes: &mut Vec<u8>) -> Result<(), InvalidRule> {
        let wrong = || InvalidRule::new(at, "no such escape in double quotes").hint("in back-quotes a backslash is a backslash");
        let c = self.next_char().ok_or_else(wrong)?;
        let (digits, radix) = match c {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '"' => {
                bytes.push(match c {
                    'a' => 0x07,
                    'b' => 0x08,
                    'f' => 0x0c,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 0x0b,
                    '"' => b'"',
                    _ => b'\\',
                });
                return Ok(());
            }
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return Err(wrong()),
        };
        let end = self.at + digits;
        let number = self.text.get(self.at..end).filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let number = number.and_then(|text| u32::from_str_radix(text, radix).ok()).ok_or_else(wrong)?;
        self.at = end;
        if matches!(c, 'u' | 'U') {
            let c = char::from_u32(number).ok_or_else(wrong)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            bytes.push(u8::try_from(number).ok().ok_or_else(wrong)?);
        }
        Ok(())
    }

    /// Skips blanks, line ends and comments; says whether a line ended.
    fn space(&mut self) -> bool {
        let mut line_ended = false;
        loop {
            let rest = self.rest();
            if let Some(comment) = rest.strip_prefix("//") {
                self.at += 2 + comment.find('\n').unwrap_or(comment.len());
            } else if let Some((comment, _)) = rest.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
                line_ended |= comment.contains('\n');
                self.at += comment.len() + 4;
            } else if rest.starts_with([' ', '\t', '\r', '\n']) {
                line_ended |= rest.starts_with('\n');
                self.at += 1;
            } else {
                return line_ended;
            }
        }
    }

    /// Skips what [`Self::space`] skips, but as in Go an expression ends with its line unless an operator holds it open.
    fn space_after_operand(&mut self) -> Result<(), InvalidRule> {
        let line_ended = self.space();
        if line_ended && !self.rest().is_empty() {
            return Err(self
                .wrong(format!("a new line begins with {}", self.found()))
                .hint("end the line before with `&&`, `||` or `,`"));
        }
        Ok(())
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn eat(&mut self, token: &str) -> bool {
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    fn next_char(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn found(&self) -> String {
        match self.rest().chars().next() {
            None => "the end".to_owned(),
            Some('&' | '|') => format!("`{}`", self.rest().chars().take_while(|c| matches!(c, '&' | '|')).collect::<String>()),
            Some(c) if c.is_alphanumeric() => {
                format!("`{}`", self.rest().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
            }
            Some(c) => format!("`{c}`"),
        }
    }

    fn wrong(&self, message: impl Into<String>) -> InvalidRule {
        InvalidRule::new(self.at, message)
    }

    fn no_operand(&self) -> InvalidRule {
        let usage = self.known.first().map(|known| known.usage).unwrap_or_default();
        self.wrong(format!("expected a matcher such as {usage}, found {}", self.found()))
    }

    fn no_operator(&self) -> InvalidRule {
        let wrong = self.wrong(format!("expected `&&`, `||` or the end, found {}", self.found()));
        let word = self.rest().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let is_word = |other: &str| word.eq_ignore_ascii_case(other);
        if is_word("and") || self.rest().starts_with(['&', ';', ',']) {
            wrong.hint("`and` is written `&&`")
        } else if is_word("or") || self.rest().starts_with('|') {
            wrong.hint("`or` is written `||`")
        } else {
            wrong
        }
    }

    fn unclosed(&self) -> InvalidRule {
        if self.rest().is_empty() { self.wrong("expected `)`, found the end: a `(` is never closed") } else { self.no_operator() }
    }
}

fn one_or(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        Some(last) => {
            nodes.push(last);
            many(nodes)
        }
        None => many(nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    /// A tree in one line: `(a & b)`, `(a | b)`, `!a`, `Name[x, y]`.
    fn shape(node: &Node) -> String {
        let join = |nodes: &[Node], by: &str| format!("({})", nodes.iter().map(shape).collect::<Vec<_>>().join(by));
        match node {
            Node::Call(call) => {
                format!("{}[{}]", call.name, call.args.iter().map(|arg| arg.text.as_str()).collect::<Vec<_>>().join(", "))
            }
            Node::Not(inner) => format!("!{}", shape(inner)),
            Node::All(nodes) => join(nodes, " & "),
            Node::Any(nodes) => join(nodes, " | "),
        }
    }

    #[track_caller]
    fn check(rule: &str, expected: &str) {
        let found = match parse(rule) {
            Ok(tree) => shape(&tree.root),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{rule}");
    }

    #[test]
    fn operators_bind_as_in_go() {
        check("Host(`a`) && Path(`/x`) || Path(`/y`)", "((Host[a] & Path[/x]) | Path[/y])");
        check("Host(`a`)||Path(`/x`)&&Path(`/y`)", "(Host[a] | (Path[/x] & Path[/y]))");
        check("Host(`a`) && (Path(`/x`) || Path(`/y`))", "(Host[a] & (Path[/x] | Path[/y]))");
        check("!Host(`a`) && Host(`b`)", "(!Host[a] & Host[b])");
        check("! !(Host(`a`)||Host(`b`)||Host(`c`))", "!!(Host[a] | Host[b] | Host[c])");
        check("((Host(`a`)))", "Host[a]");
    }

    #[test]
    fn what_traefik_takes_is_taken() {
        check("hostregexp(`a`) && HOST(`a`) && Pathprefix(`/`)", "(HostRegexp[a] & Host[a] & PathPrefix[/])");
        check(r#"Host("a\x2etest") && Path("/a`\u00e9\t\101")"#, "(Host[a.test] & Path[/a`é\tA])");
        check("Query(`a`,)", "Query[a]");
        check("Query(`a`,\n`b`)", "Query[a, b]");
        check("Host (\n`a`) ||\n\tHost(`b`)\n", "(Host[a] | Host[b])");
        check("/* x */ Host(`a`) // end", "Host[a]");
        check("Host(`a\r\nb`)", "Host[a\nb]");
        check("Host(` `)", "Host[ ]");
    }

    #[test]
    fn what_traefik_refuses_is_refused_with_a_reason() {
        check("", "expected a matcher such as Host(`example.com`), found the end at byte 0 of the rule");
        check("Host(`a`)||", "expected a matcher such as Host(`example.com`), found the end at byte 11 of the rule");
        check("||Host(`a`)", "expected a matcher such as Host(`example.com`), found `||` at byte 0 of the rule");
        check("`a`", "expected a matcher such as Host(`example.com`), found ``` at byte 0 of the rule");
        check("Host(`a`) Host(`b`)", "expected `&&`, `||` or the end, found `Host` at byte 10 of the rule");
        check(
            "Host(`a`) AND Host(`b`)",
            "expected `&&`, `||` or the end, found `AND` at byte 10 of the rule; `and` is written `&&`",
        );
        check("Host(`a`) | Host(`b`)", "expected `&&`, `||` or the end, found `|` at byte 10 of the rule; `or` is written `||`");
        check("Host(`a`))", "`)` has no `(` before it at byte 9 of the rule");
        check("(Host(`a`)", "expected `)`, found the end: a `(` is never closed at byte 10 of the rule");
        check("Host(`a)", "the back-quote that opens here is never closed at byte 5 of the rule");
        check("Host(\"a)", "the double quote that opens here is never closed at byte 5 of the rule");
        check(
            "Host(`a`)\n|| Host(`b`)",
            "a new line begins with `||` at byte 10 of the rule; end the line before with `&&`, `||` or `,`",
        );
        check(
            r#"Path("/\.")"#,
            "no such escape in double quotes at byte 7 of the rule; in back-quotes a backslash is a backslash",
        );
        check("Host(`a` `b`)", "expected `,` or `)` after an argument of `Host`, found ``` at byte 9 of the rule");
        check("Header(`a`, ``)", "an argument of `Header` is empty at byte 12 of the rule");
        check("Host(`a`) == Host(`b`)", "expected `&&`, `||` or the end, found `=` at byte 10 of the rule");
    }

    #[test]
    fn length_and_depth_have_limits() {
        let deep = format!("{}Host(`a`){}", "(".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
        check(&deep, "parentheses and `!` nest deeper than 64 at byte 64 of the rule");
        let long = format!("Host(`{}`)", "a".repeat(RULE_BYTES_MAX));
        check(&long, "a rule has at most 65536 bytes, this one 65544 at byte 0 of the rule");
        let wide = ["Host(`a`)"; 5000].join(" || ");
        assert!(parse(&wide).is_ok());
    }

    #[test]
    fn no_text_makes_it_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces =
            ["Host", "(", ")", "`", "\"", "\\", "&&", "||", "!", ",", " ", "\n", "a", "é", "/*", "//", ":", ";", "'", "x41"];
        for _ in 0..20_000 {
            let text: String = (0..random.usize(0..12)).map(|_| pieces[random.usize(0..pieces.len())]).collect();
            if let Err(error) = parse(&text) {
                assert!(error.at <= text.len(), "{text}: {error}");
            }
        }
    }
}
