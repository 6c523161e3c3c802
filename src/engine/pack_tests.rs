//! Packs without a run; `bulk::pack_simulation` tests them in whole runs.

use super::*;
use crate::base::ErrorKind;
use crate::engine::class::Class;
use crate::engine::limiter::QuotaId;
use crate::engine::waiting::Waiting;

const NOW: Time = Time::from_nanos(1_000);

/// Where an item is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ItemPlace {
    Fresh,
    Out,
    Waiting { due: Time, step: u8 },
}

/// Items, each with a size and a kind.
pub(crate) struct Sizes {
    pub items: Vec<(u32, u8)>,
    pub places: Vec<ItemPlace>,
    /// Number of items that the source has returned so far.
    pub readable: usize,
    pub classes: Vec<Class>,
    pub limits: PackLimits,
    pub next: usize,
    waiting: Waiting<(usize, Tries)>,
}

impl Sizes {
    pub(crate) fn new(items: Vec<(u32, u8)>, inputs: u16, tokens: u32) -> Self {
        let classes = (0..=u8::MAX).map(|kind| Class::new([QuotaId(u32::from(kind) + 1)]));
        Self {
            places: vec![ItemPlace::Fresh; items.len()],
            readable: items.len(),
            items,
            classes: classes.collect(),
            limits: PackLimits { inputs, tokens },
            next: 0,
            waiting: Waiting::default(),
        }
    }

    fn ticket(&self, item: usize, tries: Tries) -> Ticket<usize> {
        let (size, kind) = self.items[item];
        Ticket {
            task: item,
            cost: Cost {
                input: size,
                output_cap: Some(0),
            },
            order: item as u64,
            class: self.classes[usize::from(kind)].clone(),
            tries,
        }
    }
}

impl Backlog for Sizes {
    type Task = usize;

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<usize>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((item, tries)) = self.waiting.pop(availability, now) {
                out.push(self.ticket(item, tries));
            } else if self.next < self.readable {
                let ticket = self.ticket(self.next, Tries::default());
                self.next += 1;
                match availability.paused_quota(&ticket.class, 0, now) {
                    Some(quota) => {
                        let item = (ticket.task, ticket.tries);
                        self.waiting.pass_over(quota, ticket.order, item);
                        self.places[ticket.task] = ItemPlace::Waiting { due: now, step: 0 };
                    }
                    None => out.push(ticket),
                }
            } else {
                break;
            }
        }
        for ticket in &out {
            let place = std::mem::replace(&mut self.places[ticket.task], ItemPlace::Out);
            match place {
                ItemPlace::Fresh => {}
                ItemPlace::Waiting { due, .. } => assert!(due <= now, "before its due time"),
                ItemPlace::Out => panic!("item {} is in two places", ticket.task),
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if self.waiting.is_empty() && self.next == self.items.len() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: self.readable < self.items.len(),
        })
    }

    fn wait(&mut self, ticket: Ticket<usize>, due: Time) {
        let (quota, order, step) = (ticket.quota(), ticket.order, ticket.tries.step);
        let place = ItemPlace::Waiting { due, step };
        let before = std::mem::replace(&mut self.places[ticket.task], place);
        assert_eq!(before, ItemPlace::Out, "item {}", ticket.task);
        self.waiting
            .push(quota, due, order, (ticket.task, ticket.tries));
    }

    fn limits(&self, _: &usize) -> PackLimits {
        self.limits
    }

    fn alike(&self, a: &usize, b: &usize) -> bool {
        // In addition to the class, so that both must be compared.
        self.items[*a].1 / 2 == self.items[*b].1 / 2
    }
}

fn members(pack: &Ticket<Pack<usize>>) -> Vec<usize> {
    pack.task.iter().map(|member| member.task).collect()
}

fn take(packed: &mut Packed<Sizes>, max: usize) -> Vec<Vec<usize>> {
    match packed.take(max, &Availability::default(), NOW).unwrap() {
        Take::Items(packs) => packs.iter().map(members).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn packs_are_filled_in_the_order_of_the_input() {
    let mut packed = Packed::new(Sizes::new(vec![(1, 0); 10], 4, 100));
    assert_eq!(take(&mut packed, 2), [vec![0, 1, 2, 3], vec![4, 5, 6, 7]]);
    assert_eq!(take(&mut packed, 2), [[8, 9]]);
    assert!(take(&mut packed, 2).is_empty());
}

#[test]
fn tokens_limit_a_pack_and_a_large_item_is_sent_alone() {
    let sizes = [4, 4, 4, 30, 1, 9, 1].map(|size| (size, 0));
    let mut packed = Packed::new(Sizes::new(sizes.into(), 8, 10));
    let packs = take(&mut packed, 9);
    assert_eq!(packs, [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6]]);
    let mut packed = Packed::new(Sizes::new(sizes.into(), 8, 10));
    let one_by_one: Vec<_> = (0..6).flat_map(|_| take(&mut packed, 1)).collect();
    assert_eq!(one_by_one, packs);
}

#[test]
fn only_compatible_items_share_a_call() {
    let kinds = [0, 1, 0, 2, 1, 0, 2, 0].map(|kind| (1, kind));
    let mut packed = Packed::new(Sizes::new(kinds.into(), 3, 100));
    // Even with one permit, each pack finds its own members, and no item is lost.
    let packs: Vec<_> = (0..4).flat_map(|_| take(&mut packed, 1)).collect();
    assert_eq!(packs, [vec![0, 2, 5], vec![1, 4], vec![3, 6], vec![7]]);
    let mut packed = Packed::new(Sizes::new(kinds.into(), 3, 100));
    let mut packs = take(&mut packed, 4);
    packs.sort();
    assert_eq!(packs, [vec![0, 2, 5], vec![1, 4], vec![3, 6], vec![7]]);
}

#[test]
fn a_pack_does_not_search_the_whole_input_for_its_own() {
    let mut items = vec![(1, 1); 3 * MOST_UNMATCHED];
    items[0].1 = 0;
    let mut packed = Packed::new(Sizes::new(items, 8, 100));
    assert_eq!(take(&mut packed, 1), [[0]]);
    assert_eq!(packed.items.next, 1 + MOST_UNMATCHED);
    assert_eq!(take(&mut packed, 1), [[1, 2, 3, 4, 5, 6, 7, 8]]);
}

#[test]
fn a_completion_is_a_pack_of_one() {
    let mut packed = Packed::new(Sizes::new(vec![(1, 0); 3], 1, u32::MAX));
    assert_eq!(take(&mut packed, 2), [[0], [1]]);
    assert_eq!(take(&mut packed, 2), [[2]]);
}

#[test]
fn a_source_that_fails_within_a_pack_loses_no_item() {
    struct Breaks(Sizes, Option<Error>);
    impl Backlog for Breaks {
        type Task = usize;
        fn take(
            &mut self,
            max: usize,
            availability: &Availability,
            now: Time,
        ) -> Result<Take<usize>, Error> {
            match (self.0.take(max, availability, now)?, self.1.take()) {
                (Take::Done, Some(error)) => Err(error),
                (taken, error) => {
                    self.1 = error;
                    Ok(taken)
                }
            }
        }
        fn wait(&mut self, ticket: Ticket<usize>, due: Time) {
            self.0.wait(ticket, due);
        }
        fn limits(&self, task: &usize) -> PackLimits {
            self.0.limits(task)
        }
        fn alike(&self, a: &usize, b: &usize) -> bool {
            self.0.alike(a, b)
        }
    }
    let mut packed = Packed::new(Breaks(
        Sizes::new(vec![(1, 0); 3], 8, 100),
        Some(Error::new(ErrorKind::Invalid, "broken")),
    ));
    let availability = Availability::default();
    let Ok(Take::Items(packs)) = packed.take(1, &availability, NOW) else {
        panic!("three could be read");
    };
    assert_eq!(members(&packs[0]), [0, 1, 2]);
    assert!(packed.take(1, &availability, NOW).is_err());
}
