use super::{Desk, Outcome, Refusal};

pub(super) fn serve(_: &Desk<'_>, _: Vec<u8>) -> Outcome {
    Err(Refusal::Nowhere)
}
