//! `defaultRule`: the rule of a service that declares none, as a small part of Go's templates.
//!
//! `{{ .Name }}`, `.ID`, `.Address`, `.Node`, `.Datacenter`, `index .Labels "key"`, `normalize x`, `lower x`, parentheses and
//! pipes. Whatever else Go and sprig know is refused by name rather than guessed at.

use std::collections::BTreeMap;

/// How deep parentheses may nest.
const DEPTH_MAX: usize = 16;

/// A template that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

/// What a template may ask for.
pub(super) struct Facts<'a> {
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    pub(super) address: &'a str,
    pub(super) node: &'a str,
    pub(super) datacenter: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Value(Value),
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Name,
    Id,
    Address,
    Node,
    Datacenter,
    Labels,
    Text(String),
    Label(Box<Self>),
    Normalize(Box<Self>),
    Lower(Box<Self>),
}

impl Template {
    /// Reads a template. `Err` names what is not supported.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut trims_next = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or("`{{` has no `}}`")?;
            let (action, trims_before) = action.strip_prefix("- ").map_or((action, false), |action| (action, true));
            let (action, trims_after) = action.strip_suffix(" -").map_or((action, false), |action| (action, true));
            let before = if trims_next { before.trim_start() } else { before };
            let before = if trims_before { before.trim_end() } else { before };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Value(Value::parse(action)?));
            (rest, trims_next) = (after, trims_after);
        }
        pieces.push(Piece::Text(if trims_next { rest.trim_start() } else { rest }.to_owned()));
        pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        Ok(Self { pieces })
    }

    /// Whether two instances of one service may get different rules from it although their tags are the same.
    pub(super) fn is_per_instance(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Value(value) if value.is_per_instance()))
    }

    /// The rule of one instance.
    pub(super) fn render(&self, facts: &Facts<'_>) -> String {
        let mut rule = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => rule.push_str(text),
                Piece::Value(value) => rule.push_str(&value.render(facts)),
            }
        }
        rule
    }
}

impl Value {
    fn parse(action: &str) -> Result<Self, String> {
        let mut words = words(action)?;
        words.reverse();
        let value = Self::pipeline(&mut words, 0)?;
        match words.pop() {
            None => Ok(value),
            Some(word) => Err(format!("`{word}` in `{{{{{action}}}}}` is not supported")),
        }
    }

    /// `a | f | g x`, where what stands before a pipe is the last argument of what stands behind it.
    fn pipeline(words: &mut Vec<String>, depth: usize) -> Result<Self, String> {
        let mut value = Self::call(words, None, depth)?;
        while words.last().is_some_and(|word| word == "|") {
            words.pop();
            value = Self::call(words, Some(value), depth)?;
        }
        Ok(value)
    }

    fn call(words: &mut Vec<String>, piped: Option<Self>, depth: usize) -> Result<Self, String> {
        let last = |words: &mut Vec<String>, piped: Option<Self>| match piped {
            Some(value) => Ok(value),
            None => Self::operand(words, depth),
        };
        match words.last().map(String::as_str) {
            Some("normalize") => {
                words.pop();
                Ok(Self::Normalize(Box::new(last(words, piped)?)))
            }
            Some("lower") => {
                words.pop();
                Ok(Self::Lower(Box::new(last(words, piped)?)))
            }
            Some("index") => {
                words.pop();
                match Self::operand(words, depth)? {
                    Self::Labels => Ok(Self::Label(Box::new(last(words, piped)?))),
                    _ => Err("`index` is supported of `.Labels` only".to_owned()),
                }
            }
            Some(word) if piped.is_some() => Err(format!("`{word}` behind `|` is not supported")),
            _ => Self::operand(words, depth),
        }
    }

    fn operand(words: &mut Vec<String>, depth: usize) -> Result<Self, String> {
        let word = words.pop().ok_or("an action ends too early")?;
        if depth > DEPTH_MAX {
            return Err(format!("parentheses are nested more than {DEPTH_MAX} deep"));
        }
        match word.as_str() {
            ".Name" => Ok(Self::Name),
            ".ID" => Ok(Self::Id),
            ".Address" => Ok(Self::Address),
            ".Node" => Ok(Self::Node),
            ".Datacenter" => Ok(Self::Datacenter),
            ".Labels" => Ok(Self::Labels),
            "(" => {
                let value = Self::pipeline(words, depth + 1)?;
                match words.pop() {
                    Some(close) if close == ")" => Ok(value),
                    _ => Err("`(` has no `)`".to_owned()),
                }
            }
            _ => match word.strip_prefix('"') {
                Some(text) => Ok(Self::Text(text.to_owned())),
                None => Err(format!("`{word}` is not supported in a default rule")),
            },
        }
    }

    fn is_per_instance(&self) -> bool {
        match self {
            Self::Id | Self::Address | Self::Node | Self::Datacenter => true,
            Self::Name | Self::Labels | Self::Text(_) => false,
            Self::Label(inner) | Self::Normalize(inner) | Self::Lower(inner) => inner.is_per_instance(),
        }
    }

    fn render(&self, facts: &Facts<'_>) -> String {
        match self {
            Self::Name => facts.name.to_owned(),
            Self::Id => facts.id.to_owned(),
            Self::Address => facts.address.to_owned(),
            Self::Node => facts.node.to_owned(),
            Self::Datacenter => facts.datacenter.to_owned(),
            // Go prints the whole map, which no rule can want.
            Self::Labels => String::new(),
            Self::Text(text) => text.clone(),
            Self::Label(key) => facts.labels.get(&key.render(facts)).cloned().unwrap_or_default(),
            Self::Normalize(value) => normalize(&value.render(facts)),
            Self::Lower(value) => value.render(facts).to_lowercase(),
        }
    }
}

/// The words of an action; a string keeps one `"` before it to tell it from a name.
fn words(action: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '(' | ')' | '|' => {
                words.push(first.to_string());
                rest.get(1..).unwrap_or_default()
            }
            '"' | '`' => {
                let text = rest.get(1..).and_then(|rest| rest.split_once(first));
                let (text, after) = text.ok_or_else(|| format!("the text that begins at `{rest}` has no end"))?;
                words.push(format!("\"{text}"));
                after
            }
            _ => {
                let end = rest.find([' ', '\t', '\n', '(', ')', '|', '"', '`']).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                words.push(word.to_owned());
                after
            }
        }
        .trim_start();
    }
    Ok(words)
}

/// Traefik's `normalize`: runs of what is neither letter nor number become one dash, none at the ends.
pub(super) fn normalize(text: &str) -> String {
    let parts: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, expected: Result<&str, &str>) {
        let labels = BTreeMap::from([("traefik.host".to_owned(), "Docs.Example".to_owned())]);
        let facts = Facts { name: "lab_svc.1", id: "i-1", address: "10.0.0.1", node: "n1", datacenter: "dc1", labels: &labels };
        let found = Template::parse(template).map(|template| template.render(&facts));
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{template}");
    }

    #[test]
    fn fills_in_what_is_known_of_the_instance() {
        check("Host(`{{ normalize .Name }}`)", Ok("Host(`lab-svc-1`)"));
        check("Host(`{{.Name}}.{{ .Node }}.{{ .Datacenter }}`)", Ok("Host(`lab_svc.1.n1.dc1`)"));
        check("Host(`{{ index .Labels \"traefik.host\" | lower }}`)", Ok("Host(`docs.example`)"));
        check("Host(`{{ lower (index .Labels `traefik.host`) }}`)", Ok("Host(`docs.example`)"));
        check("Host(`{{ index .Labels \"nope\" }}`)", Ok("Host(``)"));
        check("a {{- .ID -}} b", Ok("ai-1b"));
        check("PathPrefix(`/`)", Ok("PathPrefix(`/`)"));
    }

    #[test]
    fn names_what_it_does_not_support() {
        check("{{ if .Name }}a{{ end }}", Err("`if` is not supported in a default rule"));
        check("{{ .Name | trimPrefix `a` }}", Err("`trimPrefix` behind `|` is not supported"));
        check("{{ .Tags }}", Err("`.Tags` is not supported in a default rule"));
        check("{{ .Name .Name }}", Err("`.Name` in `{{ .Name .Name }}` is not supported"));
        check("{{ .Name", Err("`{{` has no `}}`"));
        check("{{ normalize }}", Err("an action ends too early"));
        check("{{ (.Name }}", Err("`(` has no `)`"));
        check(&format!("{{{{ {} }}}}", "(".repeat(40)), Err("parentheses are nested more than 16 deep"));
    }

    #[test]
    fn knows_when_a_rule_depends_on_the_instance() {
        let is_per_instance = |text| Template::parse(text).map(|template| template.is_per_instance());
        assert_eq!(is_per_instance("Host(`{{ normalize .Name }}`)"), Ok(false));
        assert_eq!(is_per_instance("Host(`{{ lower .ID }}`)"), Ok(true));
    }

    #[test]
    fn normalizes_as_traefik_does() {
        assert_eq!(normalize("lab-svc.x_1"), "lab-svc-x-1");
        assert_eq!(normalize("_a__b."), "a-b");
    }
}
