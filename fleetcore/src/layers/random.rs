//! Reproducible random numbers, for jitter and for failures on purpose.

/// Number `n` of the sequence that `seed` names: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub(super) fn nth(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The same as a number in `0.0..1.0`.
pub(super) fn nth_unit(seed: u64, n: u64) -> f64 {
    // 53 bits are what the mantissa of an f64 holds.
    (nth(seed, n) >> 11) as f64 / (1u64 << 53) as f64
}
