//! Digests of what is not a file: graphs, tensors, samples.

use std::fmt::{self, Write as _};
use std::io;

use sha2::{Digest, Sha256};

use crate::file;
use crate::graph::Fact;
use crate::tensor::Tensor;

/// A digest under construction. Everything is told from what follows it: by its length, or by an end.
#[derive(Default)]
pub(crate) struct Hash(Sha256);

impl Hash {
    pub fn text(&mut self, text: fmt::Arguments) {
        // Neither this writer nor those of tensors fail.
        let _ = self.write_fmt(text);
        self.0.update([0]);
    }

    pub fn numbers(&mut self, numbers: impl IntoIterator<Item = usize>) {
        let mut count = 0u64;
        for number in numbers {
            self.0.update((number as u64).to_le_bytes());
            count += 1;
        }
        self.0.update(count.to_le_bytes());
    }

    pub fn fact(&mut self, fact: &Fact) {
        self.text(format_args!("{}", fact.dtype));
        self.numbers(fact.shape.iter().copied());
    }

    pub fn bytes(&mut self, bytes: impl ExactSizeIterator<Item = u8>) {
        self.numbers([bytes.len()]);
        let mut piece = Vec::with_capacity(4096);
        for byte in bytes {
            piece.push(byte);
            if piece.len() == piece.capacity() {
                self.0.update(&piece);
                piece.clear();
            }
        }
        self.0.update(&piece);
    }

    pub fn tensor(&mut self, tensor: &Tensor) {
        self.fact(&Fact::of(tensor));
        let _ = tensor.write_le_bytes(self);
    }

    /// The digest in hex.
    pub fn hex(self) -> String {
        file::hex(self.0)
    }
}

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_each_other() {
        let of = |add: &dyn Fn(&mut Hash)| {
            let mut hash = Hash::default();
            add(&mut hash);
            hash.hex()
        };
        let digests = [
            of(&|_| {}),
            of(&|h| h.text(format_args!("ab"))),
            of(&|h| {
                h.text(format_args!("a"));
                h.text(format_args!("b"));
            }),
            of(&|h| h.numbers([1, 2])),
            of(&|h| {
                h.numbers([1]);
                h.numbers([2]);
            }),
            of(&|h| h.bytes((0..5000).map(|i| i as u8).collect::<Vec<_>>().into_iter())),
            of(&|h| h.tensor(&Tensor::index([1, 2]))),
            of(&|h| h.tensor(&Tensor::f64(&[2], vec![1.0, 2.0]).unwrap())),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(digests[..i].iter().all(|other| other != digest), "{i}");
        }
    }
}
