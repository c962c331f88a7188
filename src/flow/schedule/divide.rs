//! Divide: a number shared out exactly, in proportion to weights.

use std::cmp::Reverse;

/// Shares of `total` in proportion to `weights`, by largest remainder: each first gets the whole part of
/// `total × weight ÷ sum`, then the largest remainders get one more, ties by larger weight, then by place in the list.
///
/// Postconditions: the shares sum to `total`; with `total` at most the sum of weights no share exceeds its weight.
/// Nobody gets anything where all weights are zero. (Hamilton's method; its paradox, that a larger total lowers a
/// share, cannot occur here since only differences are divided.)
pub fn apportion(total: u32, weights: &[u32]) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let quota = |weight: u32| u128::from(total) * u128::from(weight);
    let mut shares: Vec<u32> = weights.iter().map(|&weight| (quota(weight) / sum) as u32).collect();
    let missing = total - shares.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&index| (Reverse(quota(weights[index]) % sum), Reverse(weights[index]), index));
    for index in order.into_iter().take(missing as usize) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_follow_the_weights() {
        assert_eq!(apportion(9, &[3, 4, 2]), [3, 4, 2]);
        assert_eq!(apportion(30, &[40, 40, 20]), [12, 12, 6]);
        assert_eq!(apportion(10, &[7, 7, 7]), [4, 3, 3]);
        assert_eq!(apportion(2, &[1, 100, 100]), [0, 1, 1]);
        assert_eq!(apportion(5, &[0, 0]), [0, 0]);
        assert_eq!(apportion(u32::MAX, &[u32::MAX, u32::MAX]), [u32::MAX / 2 + 1, u32::MAX / 2]);
    }

    proptest! {
        #[test]
        fn the_sum_is_exact_and_no_share_exceeds_its_weight(
            weights in prop::collection::vec(0u32..1000, 1..20),
            part in 0.0f64..=1.0,
        ) {
            let sum: u32 = weights.iter().sum();
            let total = (f64::from(sum) * part) as u32;
            let shares = apportion(total, &weights);
            prop_assert_eq!(shares.iter().sum::<u32>(), total);
            prop_assert!(shares.iter().zip(&weights).all(|(share, weight)| share <= weight));
        }
    }
}
