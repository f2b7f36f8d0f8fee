//! `render`: the page holds what `dump` shows, stays small, and its script runs.

use std::process::Command;

use serde_json::json;

use super::made::scattered;
use super::*;

struct Page(String);

impl Page {
    fn new(name: &str, end: &str) -> Self {
        Self(format!("{}/{name}-{}.{end}", env!("CARGO_TARGET_TMPDIR"), std::process::id()))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }

    /// The data in the page.
    fn data(&self) -> Value {
        let text = self.text();
        let (_, rest) = text.split_once("id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_page_holds_what_is_mapped() {
    for (name, mmu) in REAL {
        let page = Page::new(name, "html");
        let ran = real(name, mmu, &["render", "-o", &page.0, "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let (drawn, real_ranges) = (page.data(), ranges_of(name));
        let drawn = drawn["ranges"].as_array().unwrap();
        let bytes = |row: &Value| row[1].as_u64().unwrap() << row[2].as_u64().unwrap();
        assert_eq!(
            drawn.iter().map(bytes).sum::<u64>(),
            real_ranges.iter().map(|range| range["bytes"].as_u64().unwrap()).sum::<u64>()
        );
        let first = format!("0x{:012x}", hex(&drawn[0][0]));
        assert_eq!(json!(first), real_ranges[0]["va"]);
        let text = page.text();
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("src="), "no network");
        assert!(text.contains("default-src 'none'"));
        assert_eq!(text.matches("</script>").count(), 2, "the data ends no script");
    }
}

#[test]
fn twenty_thousand_ranges_fit_in_2_mib_and_more_are_summed_up() {
    let (page, big) = (Page::new("ranges", "html"), Page::new("summary", "html"));
    let render = |tables: usize, to: &Page, more: &[&str]| {
        let file = scattered(tables).file();
        let args = ["render", "-o", &to.0, "--file", file.path(), "--root", "0x1000", "--mmu", "v3", "--json"];
        gmmu(&[&args, more].concat())
    };
    let ran = render(39, &page, &[]);
    assert_eq!((ran.code, &ran.json()["ranges"]), (0, &json!(39 * 512)), "{}", ran.err);
    println!("{} bytes for {} ranges", ran.json()["bytes"], ran.json()["ranges"]);
    assert!(page.text().len() < 2 << 20, "{}", page.text().len());
    let ran = render(1000, &big, &[]);
    assert_eq!((&ran.json()["summary"], &ran.json()["ranges"]), (&json!(true), &json!(0)));
    assert!(big.text().len() < 2 << 20);
    let ran = render(60, &big, &["--full"]);
    assert_eq!((ran.code, &ran.json()["ranges"]), (0, &json!(60 * 512)));
}

#[test]
fn the_graph_has_every_table_and_its_parent() {
    let graph = Page::new("graph", "dot");
    let tables = real("nv-v3-12", "v3", &["render", "-o", &graph.0, "--json"]).json()["tables"].as_u64().unwrap();
    let text = graph.text();
    assert_eq!(text.matches("[label=").count() as u64, tables);
    assert_eq!(text.matches(" -> ").count() as u64, tables - 1);
    assert!(text.starts_with("// MMU v3") && text.ends_with("}\n"));
}

#[test]
fn the_script_of_the_page_finds_what_dump_shows() {
    if Command::new("node").arg("--version").output().is_err() {
        println!("skipped: no node to run the page's script with");
        return;
    }
    for (name, mmu) in REAL {
        let page = Page::new(&format!("script-{name}"), "html");
        assert_eq!(real(name, mmu, &["render", "-o", &page.0]).code, 0);
        let mapped =
            ranges_of(name).into_iter().find(|range| range["page"] == "4K" && range["to"].is_string()).unwrap();
        let va = format!("{:#x}", hex(&mapped["va"]) + 4096);
        let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/page.js");
        let ran = Command::new("node").args([driver, &page.0, &va]).output().unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
        let walk = real(name, mmu, &["walk", &va, "--json"]).json();
        let entry = walk["steps"].as_array().unwrap().last().unwrap().clone();
        for part in [&entry["entry"], &entry["raw"][0]] {
            assert!(said.contains(part.as_str().unwrap()), "{part} in {said}");
        }
        let kind = format!("KIND 0x{:x}", mapped["kind"].as_u64().unwrap());
        assert!(said.contains(&kind), "{kind} in {said}");
    }
}
