//! What of the measurements is a gate: counts, which are the same on every machine, and ratios to a peer of the same run,
//! with room for noise and for the checks of a test build. Times alone are no gates.
#![expect(clippy::unwrap_used, reason = "tests")]

use gmmu_bench::rows::va_rows;
use gmmu_bench::vram::{self, Buddy, Offset, Ours};

#[test]
fn an_operation_on_one_chunk_touches_12_words_at_most() {
    for (name, words) in ["fill", "random free", "steady"].iter().zip(vram::words(8).unwrap()) {
        println!("{name}: {:.2} on average, {} at most", words.mean(), words.worst);
        assert!(words.mean() <= 7.0 && words.worst <= 12, "{name}");
    }
}

#[test]
fn metadata_takes_2_7_bits_a_chunk_at_most() {
    for gib in [1, 8, 80, 288] {
        let hundredths = vram::metadata(gib);
        println!("{gib} GiB: {hundredths} hundredths of a bit");
        assert!(hundredths <= 270, "{gib} GiB");
    }
}

#[test]
fn a_gibibyte_is_97_percent_used_before_a_contiguous_request_fails() {
    let least = (1..=20).map(vram::used_at_first_failure::<Ours>).min().unwrap();
    println!("{least} thousandths");
    assert!(least >= 970);
}

/// The best of three rounds, interleaved.
fn best(measure: fn() -> Option<f64>) -> f64 {
    (0..3).filter_map(|_| measure()).reduce(f64::min).unwrap()
}

#[test]
fn random_frees_and_steady_pairs_beat_the_peers() {
    let free = |both: Option<(f64, f64)>| both.map(|both| both.1);
    let ours = best(|| vram::fill_and_free::<Ours>().map(|both| both.1));
    let peer = free(vram::fill_and_free::<Offset>()).unwrap();
    println!("random free: {ours:.1} ns, offset-allocator {peer:.1} ns");
    assert!(ours <= 0.5 * peer);
    let ours = best(vram::steady_pair::<Ours>);
    let peers = [best(vram::steady_pair::<Buddy>), best(vram::steady_pair::<Offset>)];
    println!("steady pair: {ours:.1} ns, peers {peers:.1?} ns");
    assert!(peers.iter().all(|peer| ours <= 0.75 * peer));
}

#[test]
fn virtual_ranges_beat_a_first_fit_over_a_btree() {
    for row in va_rows(1000).iter().filter(|row| row.peer.is_some()) {
        println!("{}: {:.0} ns, ratio {:.2}", row.name, row.value, row.ratio().unwrap());
        assert!(row.ratio().unwrap() <= 0.9, "{}", row.name);
    }
}
