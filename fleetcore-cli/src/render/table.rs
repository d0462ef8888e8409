//! Columns for people.

use comfy_table::{Attribute, Cell as TableCell, Color, ContentArrangement, Table, presets};

use super::{Row, Tone};
use crate::error::one_line;

/// A table with a head. On a terminal it fits its width; elsewhere nothing is cut or wrapped.
pub(super) fn list<R: Row>(rows: &[R], color: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let head = R::HEAD.iter().map(|h| {
        let cell = TableCell::new(h);
        if color { cell.add_attribute(Attribute::Bold) } else { cell }
    });
    table.set_header(head);
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for row in rows {
        table.add_row(row.cells().into_iter().map(|cell| {
            // Names and commands of others must not drive our terminal.
            let out = TableCell::new(one_line(&cell.text));
            match cell.tone {
                _ if !color => out,
                Tone::Plain => out,
                Tone::Good => out.fg(Color::Green),
                Tone::Bad => out.fg(Color::Red),
                Tone::Busy => out.fg(Color::Cyan),
                Tone::Dim => out.add_attribute(Attribute::Dim),
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table.lines().map(|l| l.trim_end().to_owned() + "\n").collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}
