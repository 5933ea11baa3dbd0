use super::*;
use crate::kernels::cpu::InstructionSet;

/// What a kernel that uses every operation made of its input.
#[derive(Debug, Default, PartialEq)]
struct Found {
    values: Vec<[f32; LANES]>,
    halves: [u16; LANES],
    bytes: [i8; LANES],
    sum: i32,
}

#[inline(always)]
unsafe fn all_operations<S: Simd>(a: &[f32; LANES], b: &[f32; LANES], count: usize, found: &mut Found) {
    // SAFETY: arrays of 16; the caller has the instructions.
    unsafe {
        let (x, y) = (S::load(a.as_ptr()), S::load(b.as_ptr()));
        S::store_f16(found.halves.as_mut_ptr(), x);
        found.sum = S::store_i8(found.bytes.as_mut_ptr(), x);
        let results = [
            S::add(x, y),
            S::sub(x, y),
            S::mul(x, y),
            S::div(x, y),
            S::max(x, y),
            S::min(x, y),
            S::abs(x),
            S::keep_first(x, count, y),
            S::zero_below(x, y, 0.5),
            S::scale_by_power(x, S::splat(-3.0)),
            S::splat(S::reduce_add(x)),
            S::splat(S::reduce_max(x)),
            S::load_f16(found.halves.as_ptr()),
            S::load_bf16(found.halves.as_ptr()),
            S::load_i8(found.bytes.as_ptr()),
        ];
        for result in results {
            let mut stored = [0.0; LANES];
            S::store(stored.as_mut_ptr(), result);
            found.values.push(stored);
        }
    }
}

#[inline(always)]
unsafe fn exp_of<S: Simd>(x: &[f32; LANES], out: &mut [f32; LANES]) {
    // SAFETY: arrays of 16; the caller has the instructions.
    unsafe { S::store(out.as_mut_ptr(), exp::<S>(S::load(x.as_ptr()))) }
}

multiversion! {
    fn run_all(a: &[f32; LANES], b: &[f32; LANES], count: usize, found: &mut Found) = all_operations;
    fn run_exp(x: &[f32; LANES], out: &mut [f32; LANES]) = exp_of;
}

#[test]
fn every_set_does_the_same() {
    let a: [f32; LANES] = std::array::from_fn(|lane| (lane as f32 * 7.3 - 50.0) * 0.9);
    let b: [f32; LANES] = std::array::from_fn(|lane| 3.0 - lane as f32 * 0.37);
    for count in 0..=LANES {
        let mut expected = Found::default();
        run_all(InstructionSet::Portable, &a, &b, count, &mut expected);
        for set in InstructionSet::all() {
            let mut found = Found::default();
            run_all(set, &a, &b, count, &mut found);
            assert_eq!(found, expected, "{set:?}");
        }
    }
}

#[test]
fn exp_is_close_and_exactly_zero_far_below() {
    for set in InstructionSet::all() {
        for start in -100..90 {
            let x: [f32; LANES] = std::array::from_fn(|lane| start as f32 + lane as f32 / 16.0);
            let mut out = [0.0; LANES];
            run_exp(set, &x, &mut out);
            for (x, found) in x.into_iter().zip(out) {
                let expected = f64::from(x).exp();
                let good = match x < -87.0 {
                    true => found == 0.0,
                    false => x > 88.0 || (f64::from(found) / expected - 1.0).abs() < 1e-6,
                };
                assert!(good, "{set:?}: exp({x}) = {found}, not {expected}");
            }
        }
        let mut out = [1.0; LANES];
        run_exp(set, &[f32::NEG_INFINITY; LANES], &mut out);
        assert_eq!(out, [0.0; LANES]);
    }
}
