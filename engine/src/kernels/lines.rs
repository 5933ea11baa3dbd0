//! Memory for weights, keys and values: whole cache lines, zero at first.
//!
//! It comes straight from the system. Its pages are given when they are first written, on the thread that writes
//! them, and large ones where the system has them: a step walks through gigabytes, and each page needs a
//! translation.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// A cache line, so that loads of 64 bytes are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(super) [u8; 64]);

/// Some lines.
pub(crate) struct Lines {
    map: MmapMut,
    count: usize,
}

impl Lines {
    /// `count` lines of zeros.
    ///
    /// # Panics
    /// When there is no memory left, as `Vec` does.
    pub(crate) fn zeroed(count: usize) -> Self {
        let bytes = count.checked_mul(size_of::<Line>()).expect("a matrix fits into memory");
        let map = MmapMut::map_anon(bytes.max(1)).expect("memory for weights or keys and values");
        #[cfg(target_os = "linux")]
        // A wish: without large pages everything works, a little slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { map, count }
    }
}

impl Lines {
    /// The lines as bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[..self.count * size_of::<Line>()]
    }

    /// As [`Self::bytes`], to be overwritten.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.count * size_of::<Line>()]
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: the map holds `count` lines, begins at a page, which is aligned for a line, and any bytes are a
        // `Line`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.count) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above; the map is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zero_and_stay_as_written() {
        let mut lines = Lines::zeroed(1000);
        assert!(lines.iter().all(|line| line.0 == [0; 64]));
        assert!(lines.as_ptr().is_aligned());
        lines[999].0[63] = 7;
        assert_eq!((lines.len(), lines[999].0[63], lines[998].0[63]), (1000, 7, 0));
    }

    #[test]
    fn there_may_be_none() {
        assert!(Lines::zeroed(0).is_empty());
    }
}
