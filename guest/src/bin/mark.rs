//! Tells whoever watches a software GPU that now is the time to look.

#[path = "../mark.rs"]
mod mark;

fn main() {
    if let Err(why) = mark::Marker::find().and_then(|mut marker| marker.mark()) {
        println!("error {why}");
    }
}
