use super::*;

/// One group of 32 inputs and 8 outputs whose quants are all `quant` and stored zeros `zeros`.
fn linear(quant: u32, zeros: u32) -> GptqLinear {
    let shape = GptqShape { rows: 8, columns: 32, group: 32 };
    let word = |nibble: u32| (nibble * 0x1111_1111).to_le_bytes();
    let scales = [f16::ONE; 8].map(f16::to_le_bytes).concat();
    GptqLinear::new(shape, &word(quant).repeat(32), &word(zeros), (&scales, FloatKind::F16), None)
        .expect("the sizes agree")
}

#[track_caller]
fn check(quant: u32, zeros: u32, expected: [ZeroFormat; 2]) {
    let linear = linear(quant, zeros);
    assert_eq!([ZeroFormat::V1, ZeroFormat::V2].map(|label| linear.zero_format(label)), expected);
}

#[test]
fn symmetric_zeros_show_their_version() {
    check(0, 7, [ZeroFormat::V1; 2]);
    check(15, 8, [ZeroFormat::V2; 2]);
}

#[test]
fn other_zeros_show_it_by_the_mean_of_the_weights() {
    check(5, 5, [ZeroFormat::V2; 2]);
    check(6, 5, [ZeroFormat::V1; 2]);
}

#[test]
fn where_the_tensors_do_not_tell_the_label_stands() {
    check(9, 5, [ZeroFormat::V1, ZeroFormat::V2]);
}

#[test]
fn a_stored_15_means_16_in_version_1() {
    let mut row = [0.0; 32];
    linear(15, 15).pack(ZeroFormat::V1, |row| row).expect("packs").row(0, &mut row);
    assert_eq!(row, [-1.0; 32]);
    linear(15, 15).pack(ZeroFormat::V2, |row| row).expect("packs").row(0, &mut row);
    assert_eq!(row, [0.0; 32]);
}

#[test]
fn a_minimum_beyond_f16_is_a_fault() {
    let shape = GptqShape { rows: 8, columns: 32, group: 32 };
    let scales = [f16::MAX; 8].map(f16::to_le_bytes).concat();
    let zeros = 0x5555_5555u32.to_le_bytes();
    let linear = GptqLinear::new(shape, &[0; 128], &zeros, (&scales, FloatKind::F16), None).expect("fits");
    let fault = linear.pack(ZeroFormat::V2, |row| row).err().expect("a fault");
    assert_eq!((fault.part, &fault.reason[..]), ("scales", "the scale of group 0, output 0 is too large"));
}

#[test]
fn scales_of_another_format_must_be_exact() {
    let exact = |value: f32| exact_scales(&value.to_le_bytes(), FloatKind::F32, 1).is_ok();
    assert!(exact(0.25) && exact(0.0) && !exact(0.1) && !exact(1e6) && !exact(1e-10) && !exact(f32::NAN));
}

#[test]
fn nibbles_are_summed_and_taken_lowest_first() {
    assert_eq!(nibble_sum(0xFFFF_FFFF), 120);
    assert_eq!(nibble_sum(0x1234_5678), 36);
    assert_eq!((nibble(0x1234_5678, 0), nibble(0x1234_5678, 7)), (8, 1));
}
