//! Names that the hub draws for `generateName`.

use ring::rand::{SecureRandom, SystemRandom};

/// Without vowels and look-alikes, so that no word and no doubt comes about (apimachinery `rand.SafeEncodeString`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const BASE_MAX: usize = 63 - SUFFIX;

pub fn generate(base: &str) -> String {
    let mut random = [0; SUFFIX];
    // The same name twice is met like any taken name: another is drawn. So a failing source only costs the request.
    let _ = SystemRandom::new().fill(&mut random);
    let base: String = base.chars().take(BASE_MAX).collect();
    base + &random.map(|byte| ALPHABET[usize::from(byte) % ALPHABET.len()] as char).iter().collect::<String>()
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_names_keep_their_base_and_fit_a_label() {
        let name = super::generate(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(super::generate("web-").starts_with("web-"));
    }
}
