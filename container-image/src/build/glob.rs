//! Patterns with wildcards, matched in time proportional to pattern and text.

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Literal(char),
    /// Any character but this one.
    One {
        but: char,
    },
    /// Any number of characters other than this one.
    Many {
        but: char,
    },
    /// One of these ranges, or none of them.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// Directories, each with its slash; also none. [`Token::Inside`] comes next.
    Directories,
    /// Within the last of them.
    Inside,
}

/// Where matches that begin at the start of a text end, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) first: usize,
    pub(super) last: usize,
}

/// Matches `tokens` at the start of `text`.
pub(super) fn ends(tokens: &[Token], text: &[char]) -> Option<Ends> {
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    let mut ends: Option<Ends> = None;
    for at in 0..=text.len() {
        skip(tokens, &mut states);
        if states[tokens.len()] {
            let first = ends.map_or(at, |ends| ends.first);
            ends = Some(Ends { first, last: at });
        }
        let Some(char) = text.get(at) else { break };
        let mut next = vec![false; tokens.len() + 1];
        for (state, token) in tokens
            .iter()
            .enumerate()
            .filter(|(state, _)| states[*state])
        {
            match token {
                Token::Many { but } if char != but => next[state] = true,
                Token::Inside if *char == '/' => (next[state], next[state + 1]) = (true, true),
                Token::Inside if *char != '\n' => next[state] = true,
                Token::Many { .. } | Token::Directories | Token::Inside => {}
                one => next[state + 1] |= one.takes(*char),
            }
        }
        if !next.contains(&true) {
            break;
        }
        states = next;
    }
    ends
}

/// Whether `tokens` match the whole of `text`.
pub(super) fn matches(tokens: &[Token], text: &[char]) -> bool {
    ends(tokens, text).is_some_and(|ends| ends.last == text.len())
}

/// Enters the states that are reached without a character.
fn skip(tokens: &[Token], states: &mut [bool]) {
    for (state, token) in tokens.iter().enumerate() {
        match token {
            Token::Many { .. } if states[state] => states[state + 1] = true,
            Token::Directories if states[state] => {
                (states[state + 1], states[state + 2]) = (true, true);
            }
            _ => {}
        }
    }
}

impl Token {
    fn takes(&self, char: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == char,
            Self::One { but } => *but != char,
            Self::Class { ranges, negated } => {
                let within = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&char));
                within != *negated
            }
            Self::Many { .. } | Self::Directories | Self::Inside => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_end_are_found() {
        let tokens = [
            Token::Literal('a'),
            Token::Many { but: '\n' },
            Token::Literal('b'),
        ];
        let text: Vec<char> = "axbxbx".chars().collect();
        assert_eq!(ends(&tokens, &text), Some(Ends { first: 3, last: 5 }));
        assert!(!matches(&tokens, &text));
    }

    #[test]
    fn many_stars_take_no_time() {
        let tokens = vec![Token::Many { but: '\n' }; 500];
        let text = vec!['a'; 2000];
        assert!(matches(&tokens, &text));
    }
}
