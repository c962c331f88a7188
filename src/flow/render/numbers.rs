//! Numbers as KubeVela reads them from properties: each passes through a 64-bit float, and one without a fraction
//! comes out as an integer. So `80.0` is a port, and an integer beyond 2^53 loses its last digits; to keep them would
//! be to render another object than KubeVela does.

use serde_json::{Map, Number, Value};

pub fn as_kubevela_reads_them(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().map(|(key, value)| (key.clone(), read(value))).collect()
}

fn read(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(read_number(number)),
        Value::Array(items) => Value::Array(items.iter().map(read).collect()),
        Value::Object(map) => Value::Object(as_kubevela_reads_them(map)),
        other => other.clone(),
    }
}

/// Integers that a 64-bit float holds exactly.
const EXACT_MAX: u64 = 1 << 53;
/// From here on Go writes floats with an exponent, and what has one stays a float.
const INTEGRAL_BELOW: f64 = 1e21;

fn read_number(number: &Number) -> Number {
    if number.as_i64().is_some_and(|integer| integer.unsigned_abs() <= EXACT_MAX) {
        return number.clone();
    }
    let Some(float) = number.as_f64() else { return number.clone() };
    if float.fract() != 0.0 || float.abs() >= INTEGRAL_BELOW {
        return Number::from_f64(float).unwrap_or_else(|| number.clone());
    }
    // The shortest digits that name this float, filled up with zeros.
    let digits = if float == 0.0 { "0".to_owned() } else { float.to_string() };
    digits.parse::<i64>().map(Number::from).or_else(|_| digits.parse::<u64>().map(Number::from)).unwrap_or_else(|_| {
        // Integral, but beyond 64 bits.
        Number::from_f64(float).unwrap_or_else(|| number.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_pass_through_a_float() {
        for (written, expected) in [
            ("80", "80"),
            ("80.0", "80"),
            ("1e3", "1000"),
            ("-0.0", "0"),
            ("-0", "0"),
            ("1.10", "1.1"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("9223372036854775807", "9223372036854776000"),
            ("12345678901234567890", "12345678901234567000"),
            ("1e21", "1e+21"),
        ] {
            let number: Number = serde_json::from_str(written).unwrap();
            assert_eq!(read_number(&number).to_string(), expected, "{written}");
        }
    }
}
