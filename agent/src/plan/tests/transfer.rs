//! Maps that get other sizes.

use proptest::prelude::*;

use super::world::{last, steps};
use super::*;
use crate::plan::op::Snapshot;

/// A field of the sizes.
type Size = fn(&mut Capacity) -> &mut u32;

/// The sizes that may change.
const SIZES: [Size; 4] = [
    |capacity| &mut capacity.services,
    |capacity| &mut capacity.slots,
    |capacity| &mut capacity.frontends,
    |capacity| &mut capacity.sources,
];

fn with(mut capacity: Capacity, size: Size, rows: u32) -> Capacity {
    *size(&mut capacity) = rows;
    capacity
}

/// A number between two, if there is one.
fn halfway(too_few: Option<u32>, enough: u32) -> Option<u32> {
    let least = too_few.map_or(0, |rows| rows + 1);
    (least < enough).then(|| least + (enough - least) / 2)
}

/// The smallest maps that these rows fit.
fn tightest(rows: &Snapshot) -> Capacity {
    let mut capacity = ROOMY;
    for size in SIZES {
        let (mut too_few, mut enough) = (None, *size(&mut capacity));
        while let Some(between) = halfway(too_few, enough) {
            if rows.misfit(&with(capacity, size, between)).is_none() {
                enough = between;
            } else {
                too_few = Some(between);
            }
        }
        capacity = with(capacity, size, enough);
    }
    capacity
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Into the smallest maps they fit: every frontend answers as before, and a start finds nothing
    /// to mend and nothing to write.
    #[test]
    fn maps_of_other_sizes_take_over_what_is_in_use(steps in steps(false)) {
        let mut bench = Bench::new(ROOMY);
        steps.iter().for_each(|step| _ = bench.plan(&step.desired()));
        let rows = bench.maps.snapshot();
        let capacity = tightest(&rows);

        let mut maps = Maps::new(capacity);
        rows.ops(&capacity).iter().for_each(|op| maps.apply(op));
        prop_assert_eq!(maps.answers(), bench.maps.answers());
        let (planner, repairs) = Planner::recover(capacity, maps.snapshot());
        prop_assert_eq!(repairs, []);
        let mut bench = Bench { planner, maps, now: bench.now };
        for desired in last(&steps) {
            prop_assert_eq!(bench.plan(&desired).ops, []);
        }
    }

    /// Maps that are roomy enough have all of it, gone backends and their generations included.
    #[test]
    fn larger_maps_take_over_everything(steps in steps(false)) {
        let mut bench = Bench::new(ROOMY);
        steps.iter().for_each(|step| _ = bench.plan(&step.desired()));
        let rows = bench.maps.snapshot();
        let capacity = Capacity { slots: ROOMY.slots * 2, ..ROOMY };
        let mut maps = Maps::new(capacity);
        rows.ops(&capacity).iter().for_each(|op| maps.apply(op));
        let mut taken = maps.snapshot();
        taken.slots.truncate(rows.slots.len());
        prop_assert_eq!(taken, rows);
    }
}
