//! Amounts of money.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount in US dollars: a whole number of picodollars (10⁻¹² dollars). Token prices are whole numbers in this
/// unit, so costs and their sums are exact. The largest amount is about 18 million dollars; sums saturate there.
///
/// In JSON it is a number of dollars. [`Display`](fmt::Display) rounds to millionths of a dollar (half up), or to
/// hundredths of a cent from one dollar on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

const PICOS: u64 = 1_000_000_000_000;
const PICOS_IN_A_MICRO: u64 = 1_000_000;

impl Usd {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// The amount of `picos` picodollars (10⁻¹² dollars).
    pub const fn from_picos(picos: u64) -> Self {
        Self(picos)
    }

    /// The nearest amount to a number of dollars; `None` if it is negative or not a number.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let picos = (dollars * PICOS as f64).round();
        (dollars >= 0.0).then_some(Self(picos as u64))
    }

    /// The amount in picodollars (10⁻¹² dollars).
    pub const fn picos(self) -> u64 {
        self.0
    }

    /// The amount in millionths of a dollar, rounded half up.
    pub const fn micros(self) -> u64 {
        (self.0 / PICOS_IN_A_MICRO) + (self.0 % PICOS_IN_A_MICRO) / (PICOS_IN_A_MICRO / 2)
    }

    /// The amount in dollars. Below 2,000 dollars, no picodollar is lost.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / PICOS as f64
    }

    /// The amount that is left without `other`; zero if that is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::add)
    }
}

/// `$0.001235`; `<$0.000001` for less than half a millionth, so that only zero is shown as zero.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.micros(), self.0) {
            (0, 0) => f.write_str("$0"),
            (0, _) => f.write_str("<$0.000001"),
            (micros, _) if micros < 1_000_000 => write!(f, "$0.{micros:06}"),
            (micros, _) => {
                let hundredths = (micros + 50) / 100;
                write!(f, "${}.{:04}", hundredths / 10_000, hundredths % 10_000)
            }
        }
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars).ok_or_else(|| D::Error::custom("a negative amount of dollars"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_amount_below_two_thousand_dollars_is_read_from_json_as_it_was_written() {
        let mut picos = 1;
        while picos < 1_000 * PICOS {
            for amount in [picos, picos + 1, picos * 2 - 1] {
                let json = serde_json::to_string(&Usd(amount)).unwrap();
                assert_eq!(serde_json::from_str::<Usd>(&json).unwrap(), Usd(amount));
            }
            picos = picos * 3 + 7;
        }
        assert!(serde_json::from_str::<Usd>("-1").is_err());
        assert_eq!(Usd::from_dollars(f64::NAN), None);
        assert_eq!(Usd::from_dollars(1e300), Some(Usd(u64::MAX)));
    }

    #[test]
    fn amounts_are_shown_rounded_but_never_as_zero() {
        let shown = |picos| Usd(picos).to_string();
        assert_eq!(shown(0), "$0");
        assert_eq!(shown(1), "<$0.000001");
        assert_eq!(shown(500_000), "$0.000001");
        assert_eq!(shown(12_345_678_900), "$0.012346");
        assert_eq!(shown(1_234_550_000_000), "$1.2346");
        assert_eq!(shown(12_999_999_999_999), "$13.0000");
        assert_eq!(shown(999_999_600_000), "$1.0000");
    }
}
