//! Tables on the terminal.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::result::Run;
use crate::tables::{self, Section};

/// Everything that was found, but for the traffic, which was printed as soon as it was known; the
/// verdicts last.
pub fn run(run: &Run) {
    let shown: Vec<&str> = run.groups.iter().map(|group| group.title.as_str()).collect();
    let mut sections = tables::all(run);
    sections.retain(|section| !shown.contains(&section.title.as_str()));
    sections.rotate_left(1);
    sections.iter().for_each(section);
    println!("\n{}", tables::about(run));
}

/// One table.
pub fn section(section: &Section) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(&section.header);
    for row in &section.rows {
        table.add_row(row);
    }
    println!("\n{}\n\n{table}", section.title);
    if !section.note.is_empty() {
        println!("{}", section.note);
    }
}
