//! Models in archives: `.tar`, `.tar.gz`, `.tgz` and `.zip`.
//!
//! The address of a model is that of its archive, `!/`, and the path inside. Nothing is written to disk:
//! a model is read into memory with its external data. The members of a tar file have no table, so that
//! each look for one reads, and unpacks, the file from its beginning.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::address::{self, INSIDE};
use super::{EXTENSION, Fetched};
use crate::error::{Error, Result};
use crate::file;
use crate::onnx::{self, Sidecars};

/// The most bytes of a model with its external data: they are held in memory.
const LARGEST: u64 = 4 << 30;

/// The most members of an archive.
const MOST_MEMBERS: usize = 1_000_000;

/// What is unpacked may be this large in any case.
const SMALL: u64 = 1 << 30;

/// Beyond that, how many times the size of what it is packed in. Weights hardly get smaller; what
/// exceeds this was made to fill memory or disk.
const MOST_GROWTH: u64 = 200;

/// An archive.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tar,
    TarGz,
    Zip,
}

/// A file in an archive, or a link.
struct Member<'a> {
    name: &'a str,
    is_file: bool,
    size: u64,
}

impl Archive {
    /// The archive at `path`, if it has the name of one.
    pub fn at(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        let kind = match () {
            () if ends(&[".tar.gz", ".tgz"]) => Kind::TarGz,
            () if ends(&[".tar"]) => Kind::Tar,
            () if ends(&[".zip"]) => Kind::Zip,
            () => return None,
        };
        Some(Archive { path: path.to_path_buf(), kind })
    }

    /// The archive at `path`, if it begins like one, whatever its name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sniffed(path: &Path) -> Result<Option<Self>> {
        let (file, _) = file::open(path)?;
        let mut head = Vec::new();
        file.take(512).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
        let kind = match head.as_slice() {
            [0x1f, 0x8b, ..] => Kind::TarGz,
            [b'P', b'K', 3, 4, ..] => Kind::Zip,
            head if head.get(257..262) == Some(b"ustar") => Kind::Tar,
            _ => return Ok(None),
        };
        Ok(Some(Archive { path: path.to_path_buf(), kind }))
    }

    /// The archive and the path inside that an address names.
    pub fn of_address(address: &str) -> Option<(Self, &str)> {
        let (archive, inside) = address.split_once(INSIDE)?;
        Some((Archive::at(&address::to_path(archive))?, inside))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The addresses of the models in it, sorted.
    ///
    /// # Errors
    /// When it cannot be read, has a member outside of itself, or two of one name.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        self.visit(is_model, |member, _| {
            found.push(self.address(member.name));
            Ok(ControlFlow::Continue(()))
        })?;
        found.sort();
        match found.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::InvalidModel(format!(
                "{}: there are two members of this name: pack the archive again",
                pair[0]
            ))),
            None => Ok(found),
        }
    }

    /// The model at the path `inside`, with its external data.
    ///
    /// # Errors
    /// When it is not there, is a link, is too large, or is damaged.
    pub fn fetch(&self, inside: &str) -> Result<Fetched> {
        let called = self.address(inside);
        let mut wanted = BTreeMap::from([(inside.to_owned(), String::new())]);
        let mut room = LARGEST;
        let (_, model) = self.read(&mut wanted, &mut room)?.pop().ok_or_else(|| {
            let none = io::Error::new(io::ErrorKind::NotFound, "there is no such member");
            Error::io(&called, none)
        })?;
        let folder = inside.rsplit_once('/').map_or("", |(folder, _)| folder);
        let locations = onnx::external_locations_of(&model, &called)?;
        let mut wanted: BTreeMap<String, String> = locations
            .into_iter()
            .filter_map(|location| Some((joined(folder, &location)?, location)))
            .collect();
        let sidecars = match wanted.is_empty() {
            true => Sidecars::new(),
            false => self.read(&mut wanted, &mut room)?.into_iter().collect(),
        };
        Ok(Fetched::memory(model, sidecars, called))
    }

    fn address(&self, inside: &str) -> String {
        address::of_path(&self.path) + INSIDE + inside
    }

    /// The content of those members that are `wanted`, by the names that they are wanted by. Takes
    /// them from `wanted`, and their sizes from `room`.
    fn read(
        &self,
        wanted: &mut BTreeMap<String, String>,
        room: &mut u64,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let names = wanted.clone();
        let mut found = Vec::new();
        self.visit(
            |name| names.contains_key(name),
            |member, content| {
                let Some(called) = wanted.remove(member.name) else {
                    return Ok(ControlFlow::Continue(()));
                };
                let address = self.address(member.name);
                if !member.is_file {
                    return Err(Error::InvalidModel(format!(
                        "{address}: it is a link or no file, which is not followed in an archive; pack \
                         the file itself, as with tar's option -h"
                    )));
                }
                let mut bytes = Vec::new();
                if member.size <= *room {
                    let read = content.take(*room + 1).read_to_end(&mut bytes);
                    read.map_err(|e| self.damaged(&e))?;
                }
                *room = room.checked_sub(member.size.max(bytes.len() as u64)).ok_or_else(|| {
                    Error::Memory(format!(
                        "{address}: with its external data it takes more than {} GiB, which is read \
                         into memory; unpack the archive, and name the folder",
                        LARGEST >> 30
                    ))
                })?;
                found.push((called, bytes));
                Ok(match wanted.is_empty() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            },
        )?;
        Ok(found)
    }

    /// Shows `see` the members whose names are `wanted`, until it has seen enough.
    fn visit(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut see: impl FnMut(Member, &mut dyn Read) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (file, length) = file::open(&self.path)?;
        match self.kind {
            Kind::Tar => self.visit_tar(BufReader::new(file), wanted, &mut see),
            Kind::TarGz => {
                let unpacked = flate2::read::MultiGzDecoder::new(BufReader::new(file));
                let bounded = Bounded { inner: unpacked, left: most(length) };
                let mut reader = BufReader::new(bounded);
                self.visit_tar(&mut reader, wanted, &mut see)?;
                // The checksum is at the end of the file.
                io::copy(&mut reader, &mut io::sink()).map_err(|e| self.damaged(&e))?;
                Ok(())
            }
            Kind::Zip => self.visit_zip(file, wanted, &mut see),
        }
    }

    fn visit_tar(
        &self,
        reader: impl Read,
        wanted: impl Fn(&str) -> bool,
        see: &mut impl FnMut(Member, &mut dyn Read) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let damaged = |e| self.damaged(&e);
        let mut archive = tar::Archive::new(reader);
        for (i, entry) in archive.entries().map_err(damaged)?.enumerate() {
            let mut entry = entry.map_err(damaged)?;
            self.check_number(i)?;
            let name = self.inside(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            let is_file = kind.is_file() || kind.is_contiguous();
            let is_link = kind.is_symlink() || kind.is_hard_link();
            let Some(name) = name.filter(|name| (is_file || is_link) && wanted(name)) else {
                continue;
            };
            let member = Member { name: &name, is_file, size: entry.size() };
            if see(member, &mut entry)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn visit_zip(
        &self,
        file: File,
        wanted: impl Fn(&str) -> bool,
        see: &mut impl FnMut(Member, &mut dyn Read) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let damaged = |e: zip::result::ZipError| self.damaged(&io::Error::other(e));
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        self.check_number(archive.len().saturating_sub(1))?;
        for i in 0..archive.len() {
            let name = archive.name_for_index(i).unwrap_or_default();
            // Some writers on Windows part folders by backslashes.
            let name = self.inside(name.replace('\\', "/").as_bytes())?;
            let Some(name) = name.filter(|name| wanted(name)) else { continue };
            let entry = archive.by_index(i).map_err(damaged)?;
            if entry.is_dir() {
                continue;
            }
            let member = Member { name: &name, is_file: entry.is_file(), size: entry.size() };
            let left = most(entry.compressed_size());
            if see(member, &mut Bounded { inner: entry, left })?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A member's path, without `.`; `None` for the folder itself.
    fn inside(&self, name: &[u8]) -> Result<Option<String>> {
        let refused = |why: &str| {
            Error::InvalidModel(format!(
                "{}: its member '{}' {why}; pack the archive again",
                self.path.display(),
                String::from_utf8_lossy(name)
            ))
        };
        let Ok(text) = std::str::from_utf8(name) else {
            // It has no address, and is in nobody's way unless it is a model.
            let is_model = is_model(&String::from_utf8_lossy(name));
            return if is_model { Err(refused("has a name that is not UTF-8")) } else { Ok(None) };
        };
        let is_rooted = text.starts_with('/') || text.as_bytes().get(1) == Some(&b':');
        if is_rooted || text.split('/').any(|part| part == "..") {
            return Err(refused("leads out of the archive"));
        }
        let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        Ok((!parts.is_empty()).then(|| parts.join("/")))
    }

    fn check_number(&self, index: usize) -> Result<()> {
        if index < MOST_MEMBERS {
            return Ok(());
        }
        Err(Error::InvalidModel(format!(
            "{}: it has more than {MOST_MEMBERS} members; unpack it, and name the folder",
            self.path.display()
        )))
    }

    fn damaged(&self, error: &io::Error) -> Error {
        Error::InvalidModel(format!(
            "{}: the archive is truncated, damaged, or of another kind than its name says ({error}); \
             copy or pack it again",
            self.path.display()
        ))
    }
}

fn is_model(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(EXTENSION))
}

/// The member at `location` from `folder`; `None` where it is outside of that.
fn joined(folder: &str, location: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    if location.starts_with('/') || location.split('/').any(|part| part == "..") {
        return None;
    }
    parts.extend(location.split('/').filter(|part| !part.is_empty() && *part != "."));
    Some(parts.join("/"))
}

/// How much may be unpacked of `packed` bytes.
fn most(packed: u64) -> u64 {
    packed.saturating_mul(MOST_GROWTH).max(SMALL)
}

/// What is unpacked, until it is too much.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(format!(
                "unpacked it is more than {MOST_GROWTH} times as large, as no models are"
            ))
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
