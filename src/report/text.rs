//! Text that comes from files, made harmless: names may hold anything.

use std::borrow::Cow;

/// `text` on one line, with what a terminal or an editor would act on written as an escape, such as
/// `\n` and `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match is_active(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Control characters, and those that turn the direction of writing or part lines.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_characters_are_escaped_and_others_stay() {
        for plain in ["", "conv1/W:0", "größe × 3 – 日本語 🙂", "a\\b|c'\"<"] {
            assert_eq!(printable(plain), plain);
        }
        for (text, escaped) in [
            ("\u{1b}[2J\u{7}", r"\u{1b}[2J\u{7}"),
            ("a\nb\r\tc\0", r"a\nb\r\tc\u{0}"),
            ("\u{9b}31m\u{7f}", r"\u{9b}31m\u{7f}"),
            ("x\u{202e}y\u{2028}", r"x\u{202e}y\u{2028}"),
        ] {
            assert_eq!(printable(text), escaped);
        }
    }
}
