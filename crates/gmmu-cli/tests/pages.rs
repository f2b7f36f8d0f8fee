//! Completions and manual pages: every command is in them, and the pages are sound roff.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::gmmu_with;
use gmmu_cli::command_names;
use serde_json::json;

#[test]
fn every_shell_gets_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = gmmu_with(&["completions", shell], b"");
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
        for command in command_names() {
            assert!(ran.out.contains(&command), "{shell}: {command}");
        }
        assert!(ran.out.contains("sysfs"), "{shell}: the options of a command");
        let json = gmmu_with(&["completions", shell, "--json"], b"").json();
        assert_eq!((&json["schema"], &json["shell"], &json["script"]), (&json!(1), &json!(shell), &json!(ran.out)));
    }
}

#[test]
fn every_command_has_a_page() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages").join("man1");
    let _ = fs::remove_dir_all(&folder);
    let folder_name = folder.to_str().unwrap();
    let ran = gmmu_with(&["man", folder_name, "--json"], b"");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let mut wanted: Vec<_> = command_names().iter().map(|command| format!("gmmu-{command}.1")).collect();
    wanted.push("gmmu.1".to_owned());
    wanted.sort();
    let mut there: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(there, wanted);
    assert_eq!(ran.json()["files"].as_array().unwrap().len(), wanted.len());

    let requests =
        [".TH", ".SH", ".SS", ".PP", ".TP", ".RS", ".RE", ".IP", ".BR", ".nf", ".fi", ".br", ".ie", ".el", ".ds"];
    for name in there {
        let page = fs::read_to_string(folder.join(&name)).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
        let example = page.contains(".SH EXAMPLES\n.nf\n  gmmu ");
        assert_eq!(example, name != "gmmu.1", "{name}");
        let odd = page.lines().find(|line| {
            line.starts_with(['.', '\'']) && !requests.iter().any(|request| line.split(' ').next() == Some(request))
        });
        assert_eq!(odd, None, "{name}: a request that was none");
        assert_eq!(page.matches("\n.nf\n").count(), page.matches("\n.fi\n").count(), "{name}");
    }
    // The same again writes the same again.
    let before = fs::read(folder.join("gmmu-walk.1")).unwrap();
    assert_eq!(gmmu_with(&["man", folder_name], b"").code, 0);
    assert_eq!(fs::read(folder.join("gmmu-walk.1")).unwrap(), before);
    assert_eq!(gmmu_with(&["man"], b"").out.as_bytes(), fs::read(folder.join("gmmu.1")).unwrap());
}

#[test]
fn a_page_that_cannot_be_written_is_named() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-folder");
    fs::write(&file, b"").unwrap();
    let ran = gmmu_with(&["man", file.to_str().unwrap()], b"");
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("no-folder: cannot be written"), "{}", ran.err);
}
