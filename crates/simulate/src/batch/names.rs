//! The forms of ids, API by API.

use super::Family;
use crate::script::{mix, prompt_key};
use crate::template::Facts;

pub(super) fn batch(family: Family, number: u64) -> String {
    form(&family.wire().batch_id, number)
}

pub(super) fn file(family: Family, number: u64) -> String {
    form(&family.wire().file_id, number)
}

fn form(template: &str, number: u64) -> String {
    let mut facts = Facts::default();
    facts.set("hex", format!("{number:016x}"));
    facts.set("uuid", uuid(number));
    facts.text(template)
}

/// The result file of a batch; `kind` distinguishes its files.
pub(super) fn results(family: Family, batch: &str, kind: &str) -> String {
    match family {
        Family::Gemini => batch.replacen("batches/", "files/batch-", 1),
        _ => file(family, prompt_key(&format!("{batch}/{kind}"))),
    }
}

fn uuid(number: u64) -> String {
    let rest = mix(number);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        number >> 32,
        number >> 16 & 0xffff,
        number & 0xfff,
        rest >> 52,
        rest & 0xffff_ffff_ffff
    )
}
