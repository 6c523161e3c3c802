//! The forms of ids, API by API.

use super::Family;
use crate::script::{mix, prompt_key};

pub(super) fn batch(family: Family, number: u64) -> String {
    match family {
        Family::OpenAi | Family::Groq | Family::Xai => format!("batch_{number:016x}"),
        Family::Mistral | Family::Together => uuid(number),
        Family::Anthropic => format!("msgbatch_{number:016x}"),
        Family::Gemini => format!("batches/{number:016x}"),
    }
}

pub(super) fn file(family: Family, number: u64) -> String {
    match family {
        Family::Groq => format!("file_{number:016x}"),
        Family::Mistral => uuid(number),
        Family::Gemini => format!("files/{number:016x}"),
        Family::OpenAi | Family::Together | Family::Xai | Family::Anthropic => {
            format!("file-{number:016x}")
        }
    }
}

/// The result file of a batch; `kind` tells its files apart.
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
