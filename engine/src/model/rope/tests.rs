use super::*;

/// Frequencies for heads of 8 and a base of 10,000.
#[track_caller]
fn check(scaling: RopeScaling, divisors: Option<&[f32]>, expected: &[f64]) {
    let found = frequencies(8, 1000, 10_000.0, &scaling, divisors);
    let same = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9);
    assert!(same && found.len() == expected.len(), "{found:?} is not {expected:?}");
}

#[test]
fn frequencies_fall_by_equal_factors() {
    check(RopeScaling::None, None, &[1.0, 0.1, 0.01, 0.001])
}

#[test]
fn linear_scaling_divides_every_frequency() {
    check(RopeScaling::Linear { factor: 2.0 }, None, &[0.5, 0.05, 0.005, 0.0005])
}

#[test]
fn divisors_apply_one_by_one() {
    check(RopeScaling::Divisors, Some(&[1.0, 1.0, 2.0, 8.0]), &[1.0, 0.1, 0.005, 0.000125])
}

#[test]
fn ntk_keeps_the_fastest_frequency_and_divides_the_slowest_by_the_factor() {
    let slow = 1e-3 / 3f64;
    check(RopeScaling::Ntk { factor: 3.0 }, None, &[1.0, slow.powf(1.0 / 3.0), slow.powf(2.0 / 3.0), slow])
}

/// Llama 3 8B: heads of 128, base 500,000, trained with 8,192 tokens.
fn llama3(context: usize, scaling: RopeScaling) -> Vec<f64> {
    frequencies(128, context, 500_000.0, &scaling, None)
}

/// The base that these frequencies have.
fn base(frequencies: &[f64]) -> f64 {
    frequencies[1].powf(-64.0)
}

#[test]
fn dynamic_ntk_is_fixed_by_the_session() {
    let dynamic = |context| llama3(context, RopeScaling::DynamicNtk { factor: 2.0, original_context: 8192 });
    let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-5;
    // Figures worked out by hand from base * (f * s / L - (f - 1)) ^ (128 / 126).
    assert!(near(base(&dynamic(100)), 500_000.0));
    assert!(near(base(&dynamic(8192)), 500_000.0));
    assert!(near(base(&dynamic(12_288)), 1_011_063.0));
    assert!(near(base(&dynamic(16_384)), 1_526_387.0));
    assert!(near(base(&llama3(16_384, RopeScaling::Ntk { factor: 2.0 })), 1_011_063.0));
}

/// The rule of Llama 3.1, by wavelengths with its three cases written out.
#[test]
fn llama3_scaling_goes_by_wavelength() {
    let (factor, low, high, length) = (8.0, 1.0, 4.0, 8192.0);
    let scaling = RopeScaling::Llama3 {
        factor: factor as f32,
        low_frequency_factor: low as f32,
        high_frequency_factor: high as f32,
        original_context: 8192,
    };
    let plain = llama3(131_072, RopeScaling::None);
    let found = llama3(131_072, scaling);
    let mut cases = [0; 3];
    for (&plain, &found) in plain.iter().zip(&found) {
        let wavelength = 2.0 * PI / plain;
        let (case, expected) = if wavelength > length / low {
            (0, plain / factor)
        } else if wavelength < length / high {
            (1, plain)
        } else {
            let smooth = (length / wavelength - low) / (high - low);
            (2, (1.0 - smooth) * plain / factor + smooth * plain)
        };
        cases[case] += 1;
        assert!((found / expected - 1.0).abs() < 1e-12, "{wavelength}: {found} is not {expected}");
    }
    assert!(cases.iter().all(|count| *count > 3), "every case occurs: {cases:?}");
}

/// YaRN by the paper's formulas: r(i) turns, a ramp between the pairs of beta_fast and beta_slow turns.
#[test]
fn yarn_keeps_fast_and_divides_slow_frequencies() {
    let yarn = YarnScaling::new(4.0, 8192);
    let plain = llama3(32_768, RopeScaling::None);
    let found = llama3(32_768, RopeScaling::Yarn(yarn.clone()));
    let pair = |turns: f64| 128.0 * (8192.0 / (turns * 2.0 * PI)).ln() / (2.0 * 500_000f64.ln());
    let (low, high) = (pair(32.0).floor(), pair(1.0).ceil());
    assert_eq!((low, high), (18.0, 35.0));
    for (index, (&plain, &found)) in plain.iter().zip(&found).enumerate() {
        let ramp = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
        let expected = plain / 4.0 * ramp + plain * (1.0 - ramp);
        assert!((found / expected - 1.0).abs() < 1e-12, "pair {index}");
    }
    assert_eq!((found[0], found[18] / plain[18], found[40] / plain[40]), (1.0, 1.0, 0.25));
    assert!((f64::from(yarn.attention_factor) - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-6);
}

#[test]
fn yarn_scales_cosines_and_sines() {
    let yarn = YarnScaling { attention_factor: 1.25, ..YarnScaling::new(4.0, 100) };
    let angles = RopeAngles::new(8, 50, 10_000.0, &RopeScaling::Yarn(yarn), None);
    for (cos, sin) in angles.cos.iter().zip(&angles.sin) {
        assert!((cos.hypot(*sin) - 1.25).abs() < 1e-6);
    }
}

#[test]
fn angles_are_position_times_frequency() {
    let angles = RopeAngles::new(8, 9000, 10_000.0, &RopeScaling::None, None);
    assert_eq!((angles.pairs, angles.cos.len(), angles.sin.len()), (4, 36_000, 36_000));
    for (pair, frequency) in [1.0, 0.1, 0.01, 0.001].iter().enumerate() {
        let angle = 8191.0 * frequency;
        let at = 8191 * 4 + pair;
        assert!((f64::from(angles.cos[at]) - f64::cos(angle)).abs() < 1e-6);
        assert!((f64::from(angles.sin[at]) - f64::sin(angle)).abs() < 1e-6);
    }
}

#[test]
fn numbers_that_make_no_sense_are_faults() {
    let yarn = |change: fn(&mut YarnScaling)| {
        let mut yarn = YarnScaling::new(2.0, 100);
        change(&mut yarn);
        RopeScaling::Yarn(yarn)
    };
    let bad = [
        RopeScaling::Linear { factor: 0.0 },
        RopeScaling::Linear { factor: f32::NAN },
        RopeScaling::Ntk { factor: 0.5 },
        RopeScaling::DynamicNtk { factor: 2.0, original_context: 0 },
        yarn(|yarn| yarn.beta_fast = 0.5),
        yarn(|yarn| yarn.attention_factor = f32::INFINITY),
        yarn(|yarn| yarn.original_context = 0),
        RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 4.0,
            high_frequency_factor: 4.0,
            original_context: 8192,
        },
    ];
    assert!(bad.iter().all(|scaling| scaling.fault().is_some()));
    assert_eq!(yarn(|_| ()).fault(), None);
}

#[test]
fn neighbours_rotate_as_pairs_by_their_position() {
    let tables = RopeTables::new(4, 6000, 100.0, &RopeScaling::None, None, &Device::Cpu).unwrap();
    let x = Tensor::new(&[[[1f32, 0.0, 0.0, 1.0]]], &Device::Cpu).unwrap();
    let rotated = tables.rotate(&x, 5000).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (first, second) = (5000f64, 500f64);
    let expected = [first.cos(), first.sin(), -second.sin(), second.cos()];
    for (found, expected) in rotated.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{rotated:?}");
    }
}
