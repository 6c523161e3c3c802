//! What was paid: sums of charges by day, model, run and others.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::base::{Charge, ChargeSum, Day, Error, ErrorKind};

/// What was paid. It sums [charges](crate::provider::Charge) exactly, and works alone:
///
/// ```
/// use batchwright::provider::{Charge, ChargeSum, Day, LedgerColumn};
/// use batchwright::{Ledger, Usd};
/// let day: Day = "2026-11-26".parse()?;
/// let paid = |model: &str, dollars| {
///     let sum = ChargeSum::call([1_000, 0, 100], Usd::from_dollars(dollars));
///     Charge::new(day, sum).provider("openai").model(Some(model.to_owned()))
/// };
/// let ledger: Ledger = [paid("gpt-4o", 0.25), paid("gpt-4o", 0.5), paid("o3", 2.0)].into_iter().collect();
/// assert_eq!(ledger.total().cost_usd.to_string(), "$2.7500");
/// let by_model = ledger.by(&[LedgerColumn::Model]);
/// assert_eq!((by_model.len(), by_model[0].sum.calls), (2, 2));
/// # Ok::<(), batchwright::provider::InvalidDay>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The sums of charges that differ only in them, by a charge without a sum.
    sums: BTreeMap<Charge, ChargeSum>,
}

/// A property by which a [`Ledger`] groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum LedgerColumn {
    /// The month (UTC).
    Month,
    /// The day (UTC).
    Day,
    /// The provider.
    Provider,
    /// The model and its provider.
    Model,
    /// The service tier.
    Tier,
    /// The fingerprint of the API key.
    Key,
    /// The process in the queue, or the output file.
    Run,
    /// The server token.
    Owner,
}

impl LedgerColumn {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Month,
        Self::Day,
        Self::Provider,
        Self::Model,
        Self::Tier,
        Self::Key,
        Self::Run,
        Self::Owner,
    ];

    /// Its name in JSON, in headings, and in flags.
    pub fn name(self) -> &'static str {
        self.into()
    }

    fn of(self, payment: &Charge) -> Option<String> {
        let named = |name: &String| (!name.is_empty()).then(|| name.clone());
        match self {
            Self::Month => Some(payment.day.month()),
            Self::Day => Some(payment.day.to_string()),
            Self::Provider => named(&payment.provider),
            Self::Model => payment.model.clone(),
            Self::Tier => named(&payment.tier),
            Self::Key => payment.key.clone(),
            Self::Run => payment.run.clone(),
            Self::Owner => payment.owner.clone(),
        }
    }
}

impl FromStr for LedgerColumn {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|column| column.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::Invalid, format!("expected one of: {names}"))
        })
    }
}

/// The sum of a group of charges. In JSON, the members of its group come first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerRow {
    /// What the group has in common; `None` where it is unknown.
    pub group: Vec<(LedgerColumn, Option<String>)>,
    /// Its sums.
    pub sum: ChargeSum,
}

impl LedgerRow {
    /// The row of all charges.
    pub fn of(total: ChargeSum) -> Self {
        Self {
            group: Vec::new(),
            sum: total,
        }
    }
}

impl Serialize for LedgerRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (column, value) in &self.group {
            map.serialize_entry(column.name(), value)?;
        }
        let ChargeSum {
            calls,
            unpriced,
            input_tokens,
            cached_input_tokens,
            output_tokens,
            cost_usd: _,
        } = self.sum;
        map.serialize_entry("calls", &calls)?;
        map.serialize_entry("unpriced", &unpriced)?;
        map.serialize_entry("input_tokens", &input_tokens)?;
        map.serialize_entry("cached_input_tokens", &cached_input_tokens)?;
        map.serialize_entry("output_tokens", &output_tokens)?;
        map.serialize_entry("cost_usd", &self.sum.known_cost())?;
        map.end()
    }
}

/// Selects and groups charges, for stores that sum them. Default: all charges, in one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerQuery {
    /// The first day; `None` means without limit.
    pub since: Option<Day>,
    /// The last day; `None` means without limit.
    pub until: Option<Day>,
    /// Only charges of this owner; `None` means of all.
    pub owner: Option<String>,
    /// The columns that form a group, as in [`Ledger::by`].
    pub by: Vec<LedgerColumn>,
}

impl LedgerQuery {
    /// All charges, grouped by these columns.
    pub fn by(columns: &[LedgerColumn]) -> Self {
        Self {
            by: columns.to_vec(),
            ..Self::default()
        }
    }

    /// Selects these days, both included. Default: all.
    pub fn between(mut self, since: Option<Day>, until: Option<Day>) -> Self {
        (self.since, self.until) = (since, until);
        self
    }

    /// Selects the charges of an owner. Default: of all.
    pub fn owner(mut self, owner: Option<String>) -> Self {
        self.owner = owner;
        self
    }

    /// Whether it selects this charge.
    pub fn selects(&self, charge: &Charge) -> bool {
        is_between(charge.day, self.since, self.until)
            && (self.owner.is_none() || self.owner == charge.owner)
    }
}

fn is_between(day: Day, since: Option<Day>, until: Option<Day>) -> bool {
    since.is_none_or(|since| since <= day) && until.is_none_or(|until| day <= until)
}

/// Books what calls were billed, each as soon as it is known. See [`Route::booking`](crate::Route::booking). A ledger in a
/// mutex is such a book.
pub trait ChargeBook: Send + Sync {
    /// Books a charge of one call.
    fn book(&self, charge: Charge);
}

impl ChargeBook for Mutex<Ledger> {
    fn book(&self, charge: Charge) {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(charge);
    }
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a charge.
    pub fn add(&mut self, mut charge: Charge) {
        let sum = std::mem::take(&mut charge.sum);
        *self.sums.entry(charge).or_default() += sum;
    }

    /// The charges of these days, both included.
    pub fn between(mut self, since: Option<Day>, until: Option<Day>) -> Self {
        self.sums
            .retain(|payment, _| is_between(payment.day, since, until));
        self
    }

    /// The sum of all charges.
    pub fn total(&self) -> ChargeSum {
        let mut total = ChargeSum::default();
        self.sums.values().for_each(|sum| total += *sum);
        total
    }

    /// The columns of [groups](Self::by): each once, and before a model its provider.
    pub fn columns(by: &[LedgerColumn]) -> Vec<LedgerColumn> {
        let mut wanted: Vec<LedgerColumn> = Vec::new();
        for column in by {
            if *column == LedgerColumn::Model && !by.contains(&LedgerColumn::Provider) {
                wanted.push(LedgerColumn::Provider);
            }
            if !wanted.contains(column) {
                wanted.push(*column);
            }
        }
        wanted
    }

    /// The sums of groups, in order. A model is always shown with its provider.
    pub fn by(&self, columns: &[LedgerColumn]) -> Vec<LedgerRow> {
        let wanted = Self::columns(columns);
        let mut groups: BTreeMap<Vec<Option<String>>, ChargeSum> = BTreeMap::new();
        for (payment, sum) in &self.sums {
            let group = wanted.iter().map(|column| column.of(payment)).collect();
            *groups.entry(group).or_default() += *sum;
        }
        let row = |(group, sum): (Vec<Option<String>>, ChargeSum)| LedgerRow {
            group: wanted.iter().copied().zip(group).collect(),
            sum,
        };
        groups.into_iter().map(row).collect()
    }

    /// All charges, one for each day, provider, model, tier, key, run and owner.
    pub fn charges(&self) -> impl Iterator<Item = Charge> {
        self.sums.iter().map(|(payment, sum)| Charge {
            sum: *sum,
            ..payment.clone()
        })
    }
}

impl Extend<Charge> for Ledger {
    fn extend<I: IntoIterator<Item = Charge>>(&mut self, charges: I) {
        charges.into_iter().for_each(|charge| self.add(charge));
    }
}

impl FromIterator<Charge> for Ledger {
    fn from_iter<I: IntoIterator<Item = Charge>>(charges: I) -> Self {
        let mut ledger = Self::new();
        ledger.extend(charges);
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::usd::Usd;

    fn charge(day: i32, model: &str, cost: Option<u64>) -> Charge {
        let sum = ChargeSum::call([10, 4, 3], cost.map(Usd::from_picos));
        Charge::new(Day(day), sum)
            .provider("openai")
            .model(Some(model.to_owned()))
            .key(Some("0a1b".to_owned()))
    }

    #[test]
    fn groups_add_up_to_the_total_whatever_they_group_by() {
        let mut ledger = Ledger::new();
        for day in 0..40 {
            ledger.add(charge(day, "a", Some(1)));
            ledger.add(charge(day, "b", None).tier("batch"));
            ledger.add(charge(day, "b", Some(7)).run(Some("r".to_owned())));
        }
        let total = ledger.total();
        assert_eq!(
            (total.calls, total.unpriced, total.input_tokens),
            (120, 40, 1_200)
        );
        assert_eq!(total.cost_usd, Usd::from_picos(320));
        for column in LedgerColumn::ALL {
            let mut sum = ChargeSum::default();
            ledger.by(&[column]).iter().for_each(|row| sum += row.sum);
            assert_eq!(sum, total, "{column:?}");
            assert_eq!(column.name().parse::<LedgerColumn>().unwrap(), column);
        }
        assert_eq!(ledger.charges().collect::<Ledger>(), ledger);
        let some = ledger.between(Some(Day(10)), Some(Day(11)));
        assert_eq!(some.total().calls, 6);
    }

    #[test]
    fn an_unknown_cost_is_not_zero() {
        let ledger: Ledger = [charge(0, "a", None), charge(0, "b", Some(2))]
            .into_iter()
            .collect();
        let rows = ledger.by(&[LedgerColumn::Model, LedgerColumn::Model]);
        let json = serde_json::to_value(&rows).unwrap();
        assert_eq!(
            json[0],
            serde_json::json!({
                "provider": "openai", "model": "a", "calls": 1, "unpriced": 1, "input_tokens": 10,
                "cached_input_tokens": 4, "output_tokens": 3, "cost_usd": null,
            })
        );
        assert_eq!(json[1]["cost_usd"], 2e-12);
    }
}
