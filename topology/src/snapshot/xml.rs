//! Parses the XML that hwloc writes: elements, attributes, text, the five named entities.
//!
//! Files come from untrusted machines. hwloc's own parser ends the process on a file that contradicts itself
//! (assertions in topology.c of 2.9, and segmentation faults). This parser returns an error with the line.

/// Holds one element.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
    pub(super) text: String,
}

/// Describes an error and its line.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct XmlError {
    pub(super) line: usize,
    pub(super) what: String,
}

/// Maximum depth, above that of any machine. Elements are dropped by recursion.
const MAX_DEPTH: usize = 128;

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns a numeric attribute; `None` if it is absent or not a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.attribute(name)?.parse().ok()
    }

    pub(super) fn children(&self, name: &str) -> impl Iterator<Item = &Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Parses a document and returns its root element.
pub(super) fn parse(text: &str) -> Result<Element, XmlError> {
    let mut reader = Reader { text, at: 0 };
    reader.document().map_err(|what| {
        let line = 1 + text.as_bytes().iter().take(reader.at).filter(|&&b| b == b'\n').count();
        XmlError { line, what }
    })
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Element, String> {
        // This stack holds the open elements, outermost first.
        let mut open: Vec<Element> = Vec::new();
        loop {
            let content = self.until('<')?;
            if let Some(element) = open.last_mut() {
                element.text.push_str(&unescape(content)?);
            } else if !content.trim().trim_start_matches('\u{feff}').is_empty() {
                return Err("text outside of the root element".into());
            }
            if self.eat("<!--") {
                self.skip_past("-->")?;
            } else if self.eat("<?") {
                self.skip_past("?>")?;
            } else if self.eat("<!DOCTYPE") {
                if self.until('>')?.contains('[') {
                    return Err("a document type with internal definitions".into());
                }
                self.at += 1;
            } else if self.eat("</") {
                let name = self.name()?;
                self.close_tag()?;
                let element = open.pop().ok_or_else(|| format!("</{name}> closes no element"))?;
                if element.name != name {
                    return Err(format!("</{name}> closes <{}>", element.name));
                }
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            } else {
                self.at += 1;
                let (element, empty) = self.open_tag()?;
                if !empty && open.len() >= MAX_DEPTH {
                    return Err("elements nested too deep".into());
                }
                match open.last_mut() {
                    _ if !empty => open.push(element),
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            }
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.at += prefix.len();
        }
        found
    }

    /// Returns the text before the next `end`, which stays unread.
    fn until(&mut self, end: char) -> Result<&'a str, String> {
        let rest = self.rest();
        let Some((before, _)) = rest.split_once(end) else {
            self.at = self.text.len();
            return Err(format!("the file ends; expected {end:?}"));
        };
        self.at += before.len();
        Ok(before)
    }

    fn skip_past(&mut self, end: &str) -> Result<(), String> {
        let length = self.rest().find(end).ok_or_else(|| format!("no {end:?} before the end of the file"))?;
        self.at += length + end.len();
        Ok(())
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn name(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.')))
            .unwrap_or(rest.len());
        let name = rest.get(..end).filter(|name| !name.is_empty()).ok_or("expected a name")?;
        self.at += end;
        Ok(name.to_owned())
    }

    fn close_tag(&mut self) -> Result<(), String> {
        self.skip_space();
        if self.eat(">") { Ok(()) } else { Err("expected '>'".into()) }
    }

    /// Parses the tag after its `<`. Returns true if the element has no content.
    fn open_tag(&mut self) -> Result<(Element, bool), String> {
        let mut element = Element { name: self.name()?, ..Element::default() };
        loop {
            self.skip_space();
            if self.eat("/>") {
                return Ok((element, true));
            }
            if self.eat(">") {
                return Ok((element, false));
            }
            let key = self.name()?;
            self.skip_space();
            if !self.eat("=") {
                return Err(format!("attribute {key} has no value"));
            }
            self.skip_space();
            let quote = if self.eat("\"") {
                '"'
            } else if self.eat("'") {
                '\''
            } else {
                return Err(format!("the value of {key} is not quoted"));
            };
            let value = unescape(self.until(quote)?)?;
            self.at += 1;
            if element.attribute(&key).is_some() {
                return Err(format!("attribute {key} occurs twice"));
            }
            element.attributes.push((key, value));
        }
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, next) = behind.split_once(';').ok_or("'&' without ';'")?;
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let character = match entity {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => match entity.strip_prefix("#x") {
                Some(digits) => number(digits, 16),
                None => entity.strip_prefix('#').and_then(|digits| number(digits, 10)),
            },
        };
        out.push(character.ok_or_else(|| format!("unknown entity &{entity};"))?);
        rest = next;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE t SYSTEM \"x.dtd\">\n<t a='1'><!-- <b> -->\n<o x=\"&lt;&#65;\"/><o>0 1</o></t>";

    #[test]
    fn elements_attributes_and_text() {
        let root = parse(GOOD).unwrap();
        assert_eq!((root.name.as_str(), root.number::<u32>("a")), ("t", Some(1)));
        let o: Vec<_> = root.children("o").collect();
        assert_eq!((o[0].attribute("x"), o[1].text.as_str()), (Some("<A"), "0 1"));
    }

    #[test]
    fn broken_text_is_an_error_with_its_line() {
        for bad in [
            "",
            "x",
            "<",
            "<a",
            "<a>",
            "<a></b>",
            "</a>",
            "<a b/>",
            "<a b=1/>",
            "<a b='1' b='2'/>",
            "<a b='&x;'/>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a/>",
            "<a b='&'/>",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("<a>\n\n</b>").unwrap_err().line, 3);
        assert!(parse(&"<a>".repeat(100_000)).unwrap_err().to_string().contains("deep"));
        for end in 0..GOOD.len() {
            assert!(parse(&GOOD[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn random_text_ends(text in "[<>/a&;='\"! \n-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
