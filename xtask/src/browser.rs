//! The page that `gmmu render` makes, in a real browser: loaded, searched, clicked, in light and dark, and with half a million
//! leaves behind it.
//!
//! A copy of the page gets a script that does with the mouse and the keyboard's events what a person does, and writes down
//! what it then sees; Chromium prints the page that comes of that.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::checks::Checks;
use crate::program::gmmu;
use crate::root;

/// Where Chromium may be.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Leaves of the large image, none a neighbour of another in memory.
const LARGE: &str = "2G";
/// The page of the large image may take this, and the browser this long.
const BYTES_MAX: u64 = 2 << 20;
const TIME_MAX: Duration = Duration::from_secs(20);

/// Does what a person does, and writes what it sees into the title.
const PROBE: &str = r##"<script>
const said = [], say = (what, value) => said.push(what + "=" + value);
const text = id => document.getElementById(id).textContent;
say("title", text("title")); say("sums", text("sums"));
const find = va => { document.getElementById("va").value = va; document.getElementById("search").requestSubmit(); return text("here") };
say("found", find("0x40011000")); say("hole", find("0x50000000")); say("nonsense", find("zz"));
const box = document.getElementById("map").getBoundingClientRect();
find("0x40200000");
const point = { clientX: box.left + box.width / 2, clientY: box.top + 50, pointerId: 1, bubbles: true };
document.getElementById("map").setPointerCapture = () => {};
document.getElementById("map").dispatchEvent(new PointerEvent("pointerdown", point));
document.getElementById("map").dispatchEvent(new PointerEvent("pointerup", point));
say("clicked", text("here"));
say("tree", text("tree")); document.querySelectorAll("#tree details details").forEach(d => d.open = true);
say("findings", text("findings"));
const bad = () => { const c = document.getElementById("map"), g = c.getContext("2d"), probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--bad"); probe.fillRect(0, 0, 1, 1);
  const [r, gr, b] = probe.getImageData(0, 0, 1, 1).data, all = g.getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 0; i < all.length; i += 4) if (all[i] === r && all[i + 1] === gr && all[i + 2] === b) n++; return n };
document.getElementById("all").click(); say("marked", bad());
const first = document.querySelector("#findings li"); first.click(); say("finding", text("here"));
const mode = document.documentElement.className; document.getElementById("mode").click();
say("modes", mode + "/" + document.documentElement.className + "/" + getComputedStyle(document.body).backgroundColor);
say("drawn", Math.round(performance.now()) + " ms");
document.body.setAttribute("data-said", said.join("\n"));
</script></body>"##;

/// Looks at the page in Chromium. That there is none is said, and no failure.
pub(crate) fn browser() -> Result<(), String> {
    let works = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|said| said.status.success());
    let Some(chromium) = NAMES.iter().find(works) else {
        println!("skipped: no Chromium here, under none of the names {}", NAMES.join(", "));
        println!("0 passed, 0 failed, 1 skipped");
        return Ok(());
    };
    let folder = root().join("target/browser");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut checks = Checks::default();
    let script = root().join("examples/guide.gmmu");
    let said = look(chromium, &folder, "small", &["--script", &script.display().to_string()])?;
    let has = |what: &str, parts: &[&str]| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("{what}="))).unwrap_or_default();
        (parts.iter().all(|part| line.contains(part)), line.to_owned())
    };
    for (what, parts) in [
        ("title", &["MMU v2, top table vram:0x000000200000"][..]),
        ("sums", &["6 tables, 4 ranges"]),
        ("found", &["0x000040011000", "64K, number 0 of 1", "VALID0x1", "APERTURE0x0", "KIND0x6"]),
        ("hole", &["not mapped"]),
        ("nonsense", &["no address of this MMU"]),
        ("clicked", &["2M, number 0 of 1", "READ_ONLY0x1"]),
        ("tree", &["PDE3 vram:0x000000200000", "1 of 4"]),
        ("findings", &["none"]),
        ("marked", &["0"]),
    ] {
        let (holds, line) = has(what, parts);
        checks.check(&format!("{what}: {line}"), holds);
    }
    let (_, modes) = has("modes", &[]);
    let two: Vec<&str> = modes.split('/').collect();
    checks.check(&format!("light and dark differ: {modes}"), two.len() == 3 && two[0] != two[1]);

    // What cannot be followed is marked, and told of when it is clicked.
    let poison = root().join("crates/gmmu-cli/tests/data/poison.img").display().to_string();
    let said = look(chromium, &folder, "findings", &["--file", &poison, "--mmu", "v2", "--root", "0"])?;
    let line = |what: &str| said.lines().find_map(|line| line.strip_prefix(&format!("{what}="))).unwrap_or_default();
    let marks: u64 = line("marked").parse().unwrap_or(0);
    checks.check(&format!("findings are marked in {marks} points of the map"), marks > 20);
    checks.check(&format!("findings: {}", line("findings")), line("findings").matches("GM001").count() == 3);
    let told = line("finding");
    checks.check(&format!("one that is clicked: {told}"), told.contains("0x000000000000") && told.contains("GM001"));

    let snapshot = folder.join("large.snap").display().to_string();
    gmmu(&["map", "--size", LARGE, "--scatter", "7", "--snapshot", &snapshot])?;
    let start = Instant::now();
    let said = look(chromium, &folder, "large", &["--file", &snapshot])?;
    let took = start.elapsed();
    let sums = said.lines().find(|line| line.starts_with("sums=")).unwrap_or("nothing");
    let told = format!("half a million leaves: {sums}, drawn and searched in {} s", took.as_secs());
    checks.check(&told, took < TIME_MAX && sums.contains("tables"));
    let line = |what: &str| said.lines().find_map(|line| line.strip_prefix(&format!("{what}="))).unwrap_or_default();
    for what in ["found", "clicked"] {
        let told = line(what);
        checks.check(&format!("{what} there: {told}"), told.contains("PTE") && told.contains("512 of 512"));
    }
    // And one by one, as `--full` asks for.
    let start = Instant::now();
    let said = look(chromium, &folder, "full", &["--file", &snapshot, "--full"])?;
    let sums = said.lines().find(|line| line.starts_with("sums=")).unwrap_or("nothing");
    let told = format!("all of them: {sums}, drawn and searched in {} s", start.elapsed().as_secs());
    checks.check(&told, start.elapsed() < TIME_MAX && sums.contains("ranges, 2G mapped"));
    for name in ["small", "findings", "large", "full"] {
        let picture = folder.join(format!("{name}.png"));
        let bytes = fs::read(&picture).map_err(|error| format!("{}: {error}", picture.display()))?;
        // An empty page of this size packs to less than a third of that.
        let told = format!("the screenshot {name}.png has {} KiB", bytes.len() >> 10);
        checks.check(&told, bytes.starts_with(b"\x89PNG") && bytes.len() > 15 << 10);
    }
    let page = folder.join("large.html");
    let bytes = fs::metadata(&page).map_err(|error| format!("{}: {error}", page.display()))?.len();
    checks.check(&format!("its page has {} KiB", bytes >> 10), bytes < BYTES_MAX);
    checks.end()
}

/// Renders a source, lets the browser do what [`PROBE`] says, and gives what that has seen. A picture of it stays beside.
fn look(chromium: &str, folder: &Path, name: &str, source: &[&str]) -> Result<String, String> {
    let page = folder.join(format!("{name}.html"));
    let shown = page.display().to_string();
    gmmu(&[&["render"], source, &["-o", &shown]].concat())?;
    let html = fs::read_to_string(&page).map_err(|error| format!("{shown}: {error}"))?;
    let probed = folder.join(format!("{name}-probed.html"));
    let with = html.replacen("</body>", PROBE, 1);
    fs::write(&probed, with).map_err(|error| format!("{}: {error}", probed.display()))?;
    let run = |what: &str, page: &Path| {
        let mut command = Command::new(chromium);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", what]);
        let output = command.arg(format!("file://{}", page.display())).output();
        output.map_err(|error| format!("{chromium}: {error}"))
    };
    let picture = folder.join(format!("{name}.png"));
    if picture.exists() {
        fs::remove_file(&picture).map_err(|error| format!("{}: {error}", picture.display()))?;
    }
    run(&format!("--screenshot={}", picture.display()), &page)?;
    let dom = run("--dump-dom", &probed)?;
    let dom = String::from_utf8_lossy(&dom.stdout).into_owned();
    let said = dom.split_once("data-said=\"").and_then(|(_, rest)| rest.split_once('"'));
    said.map(|(said, _)| said.to_owned()).ok_or_else(|| format!("{}: its script did not get through", probed.display()))
}
