//! What plugins say, made fit for terminals and logs: cut, and its control characters written out.

use std::borrow::Cow;
use std::fmt::Write as _;

/// How much of a message is kept.
const MESSAGE_CHARS_MAX: usize = 2000;

/// A message for who runs the plugin, on one line.
pub(super) fn message(words: &str) -> String {
    let words = words.trim();
    match words.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", printable(&words[..at])),
        None => printable(words).into_owned(),
    }
}

/// As it is, but for characters that would move a terminal's cursor, or begin a line that nobody wrote.
pub(super) fn printable(words: &str) -> Cow<'_, str> {
    if !words.contains(is_unprintable) {
        return words.into();
    }
    let mut printable = String::with_capacity(words.len());
    for letter in words.chars() {
        match letter {
            letter if is_unprintable(letter) => {
                write!(printable, "{}", letter.escape_default())
                    .expect("a String takes everything");
            }
            letter => printable.push(letter),
        }
    }
    printable.into()
}

fn is_unprintable(letter: char) -> bool {
    // Beside the control characters: line and paragraph separators, and what turns the direction of text.
    letter.is_control() || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out_and_all_others_stay() {
        assert_eq!(printable("größer als 4 🌋"), "größer als 4 🌋");
        assert_eq!(
            message("\n\x1b[2Jgone\r\nERROR forged\u{202e}"),
            r"\u{1b}[2Jgone\r\nERROR forged\u{202e}"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let cut = message(&"é".repeat(3000));
        assert_eq!(cut.chars().count(), MESSAGE_CHARS_MAX + 1);
    }
}
