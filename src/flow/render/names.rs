//! Names for objects that were written without one: derived from their content, as KubeVela derives them.
//!
//! The text that is hashed is Go's verbose print of the object (`%#v`, keys sorted), hashed with FNV-1a and spelt in
//! an alphabet without vowels (Kubernetes apimachinery `rand.SafeEncodeString`).

use std::fmt::Write;

use serde_json::{Number, Value};

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

pub fn hash(object: &Value) -> String {
    let mut text = "(unstructured.Unstructured){Object:".to_owned();
    print(object, &mut text);
    text.push('}');
    let digits = fnv1a(text.as_bytes()).to_string();
    digits.bytes().map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char).collect()
}

/// FNV-1a, 32 bits (Fowler, Noll, Vo).
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn print(value: &Value, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => write!(text, "(interface {{}})<nil>"),
        Value::Bool(flag) => write!(text, "(bool){flag}"),
        Value::Number(number) => write!(text, "{}", number_text(number)),
        Value::String(string) => write!(text, "(string){string}"),
        Value::Array(items) => {
            text.push_str("([]interface {})[");
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { " " });
                print(item, text);
            }
            write!(text, "]")
        }
        Value::Object(map) => {
            text.push_str("(map[string]interface {})map[");
            for (index, (key, item)) in map.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { " " });
                text.push_str(key);
                text.push(':');
                print(item, text);
            }
            write!(text, "]")
        }
    };
}

fn number_text(number: &Number) -> String {
    match number.as_i64() {
        Some(integer) => format!("(int64){integer}"),
        None => format!("(float64){}", float_text(number.as_f64().unwrap_or_default())),
    }
}

/// The shortest digits that name the float; with an exponent below 10^-4 and from 10^6 on.
fn float_text(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..6 => {
            let _ = exponent;
            float.to_string()
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_go_prints_them() {
        for (float, text) in [
            (0.5, "0.5"),
            (123456.5, "123456.5"),
            (1234567.5, "1.2345675e+06"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e19, "1e+19"),
            (-2.5e-7, "-2.5e-07"),
            (1.5e300, "1.5e+300"),
        ] {
            assert_eq!(float_text(float), text);
        }
    }
}
