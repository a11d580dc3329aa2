//! Names for containers that were given none: an adjective and a surname.

use crate::Result;
use crate::state;

const ADJECTIVES: [&str; 48] = [
    "able", "agile", "amber", "bold", "brave", "bright", "brisk", "calm", "candid", "clever",
    "crisp", "daring", "deft", "eager", "early", "earnest", "fair", "fond", "frank", "gentle",
    "glad", "golden", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "mellow", "merry", "modest", "nimble", "patient", "polite", "proud", "quiet",
    "rapid", "sharp", "sincere", "steady", "subtle", "tidy", "warm", "witty",
];

/// People whose work computers, networks and their theory rest on.
const SURNAMES: [&str; 48] = [
    "allen",
    "babbage",
    "backus",
    "baran",
    "bartik",
    "boole",
    "booth",
    "borg",
    "cerf",
    "church",
    "clarke",
    "codd",
    "cook",
    "dijkstra",
    "easley",
    "engelbart",
    "feinler",
    "floyd",
    "goldberg",
    "gray",
    "hamilton",
    "hamming",
    "hoare",
    "holberton",
    "hopper",
    "huffman",
    "iverson",
    "kahn",
    "karp",
    "kernighan",
    "kleene",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "mccarthy",
    "metcalfe",
    "milner",
    "neumann",
    "perlman",
    "postel",
    "ritchie",
    "shannon",
    "thompson",
    "turing",
    "wilkes",
    "wing",
    "wirth",
];

/// A name at random that is not `taken`; with a number once the plain ones run out.
pub(crate) fn random(taken: impl Fn(&str) -> bool) -> Result<String> {
    let mut attempt = 0_u64;
    loop {
        let bytes = state::new_id()?;
        let pick = |list: &[&'static str; 48], digits: &str| {
            let number = usize::from_str_radix(digits, 16).unwrap_or(0);
            list[number % list.len()]
        };
        let mut name = format!(
            "{}_{}",
            pick(&ADJECTIVES, &bytes[..8]),
            pick(&SURNAMES, &bytes[8..16])
        );
        if attempt > 8 {
            name = format!("{name}{attempt}");
        }
        if !taken(&name) {
            return Ok(name);
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_words_and_never_taken() {
        let name = random(|_| false).unwrap();
        let (adjective, surname) = name.split_once('_').unwrap();
        for word in [adjective, surname] {
            assert!(
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()),
                "{name}"
            );
        }
        let plain = |name: &str| !name.ends_with(|last: char| last.is_ascii_digit());
        assert!(!plain(&random(plain).unwrap()));
    }
}
