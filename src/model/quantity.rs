//! Kubernetes quantities and amounts of resources.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity: {0:?} (expected a number with an optional suffix, such as 500m, 2, 1.5Gi)")]
pub struct InvalidQuantity(pub String);

/// A parsed quantity, exact to thousandths; smaller parts are rounded up, as Kubernetes does
/// (apimachinery `resource.Quantity`: precision below nano is lost upwards).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    milli: i128,
}

/// Larger values than this are refused rather than saturated: 2^63 - 1 whole units, the bound of Kubernetes.
const WHOLE_MAX: i128 = i64::MAX as i128;

impl Quantity {
    pub fn from_milli(milli: i64) -> Self {
        Self { milli: milli.into() }
    }

    /// Thousandths; what CPU is counted in. Saturates at `i64::MAX`.
    pub fn milli(&self) -> i64 {
        self.milli.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Whole units, rounded up: what a request must be granted at least.
    pub fn whole_up(&self) -> i64 {
        self.milli.div_euclid(1000).saturating_add(i128::from(self.milli.rem_euclid(1000) != 0)) as i64
    }

    /// Whole units, rounded down: what may be promised at most.
    pub fn whole_down(&self) -> i64 {
        self.milli.div_euclid(1000) as i64
    }
}

impl std::str::FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        parse(text).ok_or_else(|| InvalidQuantity(text.chars().take(64).collect()))
    }
}

fn parse(text: &str) -> Option<Quantity> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    // value = digits × 10^-fraction.len() × factor; kept as a fraction until the one rounding at the end.
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let numerator = digits.checked_mul(factor)?.checked_mul(1000)?;
    let denominator = divisor.checked_mul(10i128.checked_pow(fraction.len().try_into().ok()?)?)?;
    let milli = numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0);
    let milli = if negative { -milli } else { milli };
    (milli.abs() <= WHOLE_MAX * 1000).then_some(Quantity { milli })
}

/// The suffix as (factor, divisor).
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

/// Amounts by resource name. Units: `cpu` in thousandths of a core, everything else in whole units
/// (bytes of memory, number of GPUs, number of `pods`). A missing name is zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resources(pub BTreeMap<String, i64>);

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";

impl Resources {
    pub fn of<const N: usize>(amounts: [(&str, i64); N]) -> Self {
        Self(amounts.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect())
    }

    /// The amount of a parsed quantity in the unit of `name`, rounded up (a request).
    pub fn amount_up(name: &str, quantity: Quantity) -> i64 {
        if name == CPU { quantity.milli() } else { quantity.whole_up() }
    }

    /// The amount of a parsed quantity in the unit of `name`, rounded down (a capacity).
    pub fn amount_down(name: &str, quantity: Quantity) -> i64 {
        if name == CPU { quantity.milli() } else { quantity.whole_down() }
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self, times: i64) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_insert(0);
            *sum = sum.saturating_add(amount.saturating_mul(times));
        }
    }

    /// How often `request` fits in: the minimum over its non-zero resources; `None` where it asks for nothing.
    pub fn fits(&self, request: &Self) -> Option<u64> {
        let times = |(name, &amount): (&String, &i64)| (self.get(name).max(0) / amount) as u64;
        request.0.iter().filter(|&(_, &amount)| amount > 0).map(times).min()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn is_zero(&self) -> bool {
        self.0.values().all(|&amount| amount == 0)
    }
}

/// `500m cpu, 2Gi memory`, in order of names.
impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, &amount) in self.0.iter().filter(|(_, amount)| **amount != 0) {
            write!(f, "{separator}")?;
            separator = ", ";
            let in_bytes = name == MEMORY || name.ends_with("storage");
            let unit = [("Gi", 1i64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)].into_iter();
            match unit.filter(|_| in_bytes).find(|(_, size)| amount % size == 0) {
                Some((unit, size)) => write!(f, "{}{unit} {name}", amount / size)?,
                None if name == CPU && amount % 1000 == 0 => write!(f, "{} cpu", amount / 1000)?,
                None if name == CPU => write!(f, "{amount}m cpu")?,
                None => write!(f, "{amount} {name}")?,
            }
        }
        if separator.is_empty() { write!(f, "nothing") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milli(text: &str) -> Option<i128> {
        text.parse::<Quantity>().ok().map(|q| q.milli)
    }

    #[test]
    fn quantities_parse_as_kubernetes_reads_them() {
        let cases = [
            ("0", 0),
            ("0.0", 0),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("5.", 5000),
            ("1.5Gi", 1_610_612_736_000),
            ("100k", 100_000_000),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1n", 1),
            ("-2", -2000),
            ("+3", 3000),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for text in ["", ".", "-", "1.2.3", "1 Gi", "1gi", "Gi", "1e", "1e99", "99999999999E", "0x10", "1ee3"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    #[test]
    fn fits_is_the_scarcest_resource() {
        let free = Resources::of([(CPU, 4000), (MEMORY, 1000), (PODS, 110)]);
        assert_eq!(free.fits(&Resources::of([(CPU, 500), (MEMORY, 400)])), Some(2));
        assert_eq!(free.fits(&Resources::of([("nvidia.com/gpu", 1)])), Some(0));
        assert_eq!(free.fits(&Resources::of([(CPU, 0)])), None);
    }
}
