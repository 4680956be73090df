//! What flows have led is counted, once.

use millrace_common::flow::NO_SERVICE;

use super::*;

impl Rows {
    /// Packets of the flow `index` come by, one way.
    fn lead(&self, case: &Case, index: u16, by_backend: bool, bytes: u64) {
        let key = case.entries(index)[usize::from(by_backend)].0;
        let mut entries = self.entries.borrow_mut();
        let of_flow = entries.iter_mut().filter(|((_, of), _)| *of == key);
        of_flow.for_each(|(_, flow)| flow.bytes = Count::new(flow.bytes.get() + bytes));
    }

    /// The flow is established.
    fn establish(&self, case: &Case, index: u16) {
        let mut entries = self.entries.borrow_mut();
        for (key, _) in case.entries(index) {
            if let Some(flow) = entries.remove(&(number(case.table()), key)) {
                let flow = Flow { bits: flow.bits & !bits::HALF_OPEN, ..flow };
                entries.insert((number(Table::Established), key), flow);
            }
        }
    }

    fn set_seen(&self, bits: u16) {
        self.entries.borrow_mut().values_mut().for_each(|flow| flow.seen |= bits);
    }
}

/// What was counted in all.
fn total(counts: &[Counts<V4>]) -> Usage {
    let mut total = Usage::default();
    counts.iter().flat_map(|counts| counts.usage.values()).for_each(|found| total += found.usage);
    total
}

fn usage(opened: u64, failed: u64, to_backend: u64, to_client: u64) -> Usage {
    Usage { opened, failed, to_backend, to_client }
}

#[test]
fn bytes_are_counted_once_while_a_flow_is_opened_established_and_removed() {
    let (rows, mut sweep) = (rows_of(&[HALF_OPEN]), Sweep::default());
    let mut counts = Vec::new();
    let mut pass = |sweep: &mut Sweep<V4>, secs| {
        counts.push(pass_of(sweep, &rows, secs, 0));
        total(&counts)
    };
    rows.lead(&HALF_OPEN, 1, false, 100);
    rows.lead(&HALF_OPEN, 1, true, 60);
    assert_eq!(pass(&mut sweep, NOW_SECS), usage(1, 0, 100, 60));
    rows.establish(&HALF_OPEN, 1);
    rows.lead(&HALF_OPEN, 1, false, 40);
    assert_eq!(pass(&mut sweep, NOW_SECS), usage(1, 0, 140, 60));
    assert_eq!(sweep.remembered(), 2, "MASQ and UNMASQ entries lead nothing more");
    rows.lead(&HALF_OPEN, 1, true, 7);
    rows.set_seen(seen::FIN);
    assert_eq!(pass(&mut sweep, NOW_SECS + 100), usage(1, 0, 140, 67));
    assert!(rows.entries.borrow().is_empty());
    for _ in 0..=PASSES_MISSED {
        assert_eq!(pass(&mut sweep, NOW_SECS + 100), usage(1, 0, 140, 67));
    }
    assert_eq!(sweep.remembered(), 0);
    let led = Led { service: 1, backend: (host(3), 8080).into() };
    assert!(counts.iter().flat_map(|counts| counts.usage.keys()).all(|key| *key == led));
    assert_eq!(counts[0].usage[&led].row, Some((SERVING, 1)));
}

#[test]
fn a_backend_fails_once_when_it_refuses_or_never_answers() {
    let with = |protocol, client_seen, backend_seen| Case {
        protocol,
        client_seen: client_seen | seen::PACKET,
        backend_seen,
        ..HALF_OPEN
    };
    let refusal = seen::PACKET | seen::RST;
    let cases = [
        ("refused", with(Protocol::Tcp, 0, refusal), 1, 1),
        ("aborted", with(Protocol::Sctp, 0, refusal), 1, 1),
        ("not answered", with(Protocol::Tcp, 0, 0), 0, 1),
        ("a datagram without an answer", with(Protocol::Udp, 0, 0), 0, 0),
        ("the client goes no further", with(Protocol::Tcp, 0, seen::PACKET), 0, 0),
        ("the client ends it", with(Protocol::Tcp, seen::RST, seen::PACKET), 0, 0),
        ("reset later", Case { established: true, ..with(Protocol::Tcp, 0, refusal) }, 0, 0),
    ];
    let begun_there = cases.clone().map(|(what, case, at_once, in_the_end)| {
        (what, Case { begun_there: true, ..case }, at_once, in_the_end)
    });
    for (what, case, at_once, in_the_end) in cases.into_iter().chain(begun_there) {
        let (rows, mut sweep) = (rows_of(&[case]), Sweep::default());
        let mut counts = vec![pass_of(&mut sweep, &rows, NOW_SECS, 0)];
        counts.push(pass_of(&mut sweep, &rows, NOW_SECS, 0));
        assert_eq!(total(&counts), usage(1, at_once, 0, 0), "{what}");
        counts.push(pass_of(&mut sweep, &rows, NOW_SECS + 100_000, 0));
        assert!(rows.entries.borrow().is_empty());
        assert_eq!(total(&counts), usage(1, in_the_end, 0, 0), "{what}");
    }
}

#[test]
fn what_an_earlier_agent_has_counted_is_not_counted_again() {
    let refused = Case { backend_seen: seen::PACKET | seen::RST, ..HALF_OPEN };
    let (rows, mut sweep) = (rows_of(std::slice::from_ref(&refused)), Sweep::default());
    rows.lead(&refused, 1, false, 100);
    let first = pass_of(&mut sweep, &rows, NOW_SECS, NOW_SECS);
    rows.lead(&refused, 1, false, 5);
    let second = pass_of(&mut sweep, &rows, NOW_SECS, NOW_SECS);
    assert_eq!(total(&[first, second]), usage(0, 0, 5, 0));
}

/// What happens between passes.
#[derive(Clone, Debug)]
enum Step {
    Lead { index: u16, by_backend: bool, bytes: u64 },
    Establish { index: u16 },
    Pass,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_u16, any::<bool>(), 0..1_u64 << 40)
            .prop_map(|(index, by_backend, bytes)| Step::Lead { index, by_backend, bytes }),
        1 => (1..4_u16).prop_map(|index| Step::Establish { index }),
        2 => Just(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn every_byte_is_counted_once(
        begun_there in any::<bool>(),
        steps in prop::collection::vec(steps(), 1..40),
    ) {
        let case = Case { begun_there, ..HALF_OPEN };
        let (rows, mut sweep) = (rows_of(&vec![case.clone(); 3]), Sweep::default());
        let (mut counts, mut led) = (Vec::new(), usage(3, 0, 0, 0));
        for step in steps.into_iter().chain([Step::Pass]) {
            match step {
                Step::Lead { index, by_backend, bytes } => {
                    rows.lead(&case, index, by_backend, bytes);
                    *if by_backend { &mut led.to_client } else { &mut led.to_backend } += bytes;
                }
                Step::Establish { index } => rows.establish(&case, index),
                Step::Pass => counts.push(pass_of(&mut sweep, &rows, NOW_SECS, 0)),
            }
        }
        prop_assert_eq!(total(&counts), led);
    }
}

#[test]
fn what_goes_beside_a_flow_counts_for_no_service() {
    let (rows, mut sweep) = (rows_of(&[HALF_OPEN]), Sweep::default());
    rows.entries.borrow_mut().values_mut().for_each(|flow| flow.service = NO_SERVICE);
    rows.lead(&HALF_OPEN, 1, false, 100);
    let counts = pass_of(&mut sweep, &rows, NOW_SECS, 0);
    assert!(counts.usage.is_empty(), "{:?}", counts.usage);
    // Never answered, and gone: nobody's failure either.
    let counts = pass_of(&mut sweep, &rows, NOW_SECS + 1000, 0);
    assert!(counts.usage.is_empty(), "{:?}", counts.usage);
    assert!(rows.entries.borrow().is_empty());
}

#[test]
fn what_goes_beside_a_flow_outlives_the_service() {
    let udp = Case { protocol: Protocol::Udp, is_masqueraded: false, backend: GONE, ..HALF_OPEN };
    let rows = rows_of(&[udp]);
    rows.entries.borrow_mut().values_mut().for_each(|flow| flow.service = NO_SERVICE);
    let counts = pass_of(&mut Sweep::default(), &rows, NOW_SECS, 0);
    assert_eq!((counts.stale_removed, rows.entries.borrow().len()), (0, 2));
}
