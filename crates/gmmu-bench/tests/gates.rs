//! What of the measurements is a gate: counts, which are the same on every machine, and ratios to a peer of the same run,
//! with room for noise and for the checks of a test build. Times alone are no gates.
#![expect(clippy::unwrap_used, reason = "tests")]

use gmmu_bench::rows::va_rows;
use gmmu_bench::vram::{self, Buddy, Offset, Ours};
use gmmu_bench::{counts, vmm};

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

/// What a job may take beside the plain loop that it comes down to: half as much again as it is to reach, the best of three
/// attempts. Most are no gates where the checks of a test build take as long as the job.
#[test]
fn jobs_stay_near_the_plain_stores() {
    let mut gated = vec!["map 1G of 4K, tables there: execute alone"];
    if cfg!(not(debug_assertions)) {
        gated.extend([
            "map 1G of 4K, fresh tables",
            "map 1G of 4K, tables there",
            "map 1G of late 4K, fresh tables",
            "map 1G of late 4K, fresh tables: execute alone",
            "unmap 1G of 4K, tables dropped",
            "unmap 1G of 4K, tables dropped: execute alone",
        ]);
    }
    for _ in 0..3 {
        let rows = vmm::rows(vmm::ROUNDS);
        gated.retain(|name| {
            let row = rows.iter().find(|row| row.name == *name).unwrap();
            let (ratio, limit) = (row.ratio().unwrap(), row.limit.unwrap());
            println!("{name}: {:.3} ns, ratio {ratio:.2} to the {}", row.least.unwrap(), limit.what);
            ratio > 1.5 * limit.target.unwrap()
        });
    }
    assert!(gated.is_empty(), "{gated:?}");
}

#[test]
fn jobs_write_what_they_must_and_no_more() {
    let rows = counts::rows();
    let counts: Vec<(&str, f64)> = rows.iter().map(|row| (row.name.as_str(), row.value)).collect();
    // A word for each page and each new table, and five directories of 512 words each with their links.
    let mapped = 262_144 + 512 + 5 + 5 * 512;
    assert_eq!(
        counts,
        [
            ("PRAMIN, map 1G of 4K: entries written", f64::from(mapped)),
            ("PRAMIN, map 1G of 4K: window moves", 3.0),
            ("PRAMIN, map one page, tables there: entries written", 1.0),
            ("PRAMIN, map one page, tables there: reads", 1.0),
            ("PRAMIN, unmap one page, table in use: entries written", 1.0),
            ("PRAMIN, unmap 1G of 4K alone in its tables: entries written", 512.0),
            ("PRAMIN, zap 1G of 4K: entries written", 262_144.0),
            ("PRAMIN, zap 1G of 4K: window moves", 2.0),
            ("PRAMIN, restore 1G of 4K: entries written", f64::from(mapped + 512)),
            // 178 tables lie under them.
            ("PRAMIN, bind 1000 scattered 64K: entries written", f64::from(178 * 33 + 5 + 5 * 512)),
            // The root and the directories take 4 KiB each, and the tables as much as their entries.
            ("memory for the tables of 1G of 4K", f64::from(6 * 4096 + 262_144 * 8)),
            ("memory for the tables of 1G of 64K", f64::from(6 * 4096 + 16_384 * 8)),
        ]
    );
    assert!(rows.iter().all(|row| row.met() == Some(true)));
}
