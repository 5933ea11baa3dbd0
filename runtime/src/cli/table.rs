//! Text in aligned columns, and amounts as people read them.

/// A table: one line a row, columns padded to their widest cell, the last one left ragged.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table under these headings.
    pub fn new<const COLUMNS: usize>(headings: [&str; COLUMNS]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| heading.to_string()).collect()] }
    }

    /// Adds a row; it may have fewer cells than there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole table, each line ended.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        self.rows.iter().map(line).collect()
    }
}

/// Bytes in the unit that leaves at most three digits before the point: `98.4 MB`, decimal as disks and
/// download pages count.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", "size"]);
        table.row(["smollm2".to_owned(), "98.4 MB".to_owned()]);
        table.row(["x".to_owned()]);
        assert_eq!(table.render(), "name     size\nsmollm2  98.4 MB\nx\n");
    }

    #[track_caller]
    fn check(count: u64, expected: &str) {
        assert_eq!(bytes(count), expected);
    }

    #[test]
    fn amounts_read_well() {
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.0 kB");
        check(98_362_432, "98.4 MB");
        check(999_999, "1.0 MB");
        check(16_070_000_000, "16.1 GB");
    }
}
