//! Files that commands write: whole or not at all, and never in place of something else.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Files that are being written, for an interruption to take away.
static PARTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn parts<T>(change: impl FnOnce(&mut Vec<PathBuf>) -> T) -> T {
    change(&mut PARTS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Removes what is half written.
pub(super) fn discard_parts() {
    for part in parts(std::mem::take) {
        // The process is about to end, and nobody could do anything about a failure.
        let _ = std::fs::remove_file(part);
    }
}

/// A file that is being written, which goes away unless it is renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Where it has been renamed, there is none.
        let _ = std::fs::remove_file(&self.0);
        parts(|parts| parts.retain(|known| *known != self.0));
    }
}

/// A file to be written.
#[derive(Clone, Debug)]
pub(super) struct OutFile {
    path: PathBuf,
}

impl OutFile {
    /// Errs where `path` is taken by anything but a regular file, or nothing can be written in its
    /// folder: what would fail after the work is said before it.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let out = OutFile { path: path.to_path_buf() };
        out.check()?;
        // Where none can be made beside it, it cannot be written.
        out.part()?;
        Ok(out)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Errs where one of `sources` is the file to be written, under whatever name.
    pub(super) fn spare<'a>(&self, sources: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        match sources.into_iter().find(|source| same_file(source, &self.path)) {
            None => Ok(()),
            Some(source) => Err(Error::Usage(format!(
                "{}: this is what is read ({}), and would be lost; give another file to write",
                self.path.display(),
                source.display()
            ))),
        }
    }

    /// Errs where `other` is the same file, there or not.
    pub(super) fn differs_from(&self, other: &OutFile) -> Result<()> {
        let same = match (self.place(), other.place()) {
            (Some(this), Some(other)) => this == other,
            _ => self.path == other.path,
        };
        if same || same_file(&self.path, &other.path) {
            return Err(Error::Usage(format!(
                "{}: two results are to be written into this file, and one would be lost; give each a \
                 file of its own",
                other.path.display()
            )));
        }
        Ok(())
    }

    /// The path by way of no links and no `..`.
    fn place(&self) -> Option<PathBuf> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(self.path.file_name()?))
    }

    /// Writes the file, by way of one beside it, so that it is there as a whole or not at all.
    pub(super) fn write(&self, content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        self.check()?;
        let (mut file, part) = self.part()?;
        let written = content(&mut file)
            // What is there keeps its permissions.
            .and_then(|()| match std::fs::metadata(&self.path) {
                Ok(meta) => file.set_permissions(meta.permissions()),
                Err(_) => Ok(()),
            })
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&part.0, &self.path));
        written.map_err(|e| Error::io(&self.path, e))
    }

    /// A file beside this one, under a name that nothing has.
    fn part(&self) -> Result<(File, Part)> {
        let mut number = 0;
        loop {
            let name = format!(".gradalign.{}.{number}.part", std::process::id());
            let path = self.path.with_file_name(name);
            match File::create_new(&path) {
                // A process that was killed left it.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                Err(e) => return Err(Error::io(&self.path, e)),
                Ok(file) => {
                    parts(|parts| parts.push(path.clone()));
                    return Ok((file, Part(path)));
                }
            }
        }
    }

    fn check(&self) -> Result<()> {
        let refused = |why: &str| Err(Error::Usage(format!("{}: {why}", self.path.display())));
        let is_folder = self.path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if self.path.file_name().is_none() || is_folder {
            return refused("no name of a file to write");
        }
        let kind = match std::fs::symlink_metadata(&self.path) {
            Ok(meta) => meta.file_type(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.check_folder(),
            Err(e) => return Err(Error::io(&self.path, e)),
        };
        if kind.is_file() {
            Ok(())
        } else if kind.is_dir() {
            refused("it is a folder; name a file to write in it")
        } else if kind.is_symlink() {
            refused("it is a link, which is not written through; name the file it leads to")
        } else {
            refused("it is a device or a pipe, which no file is put in place of; name a file")
        }
    }

    fn check_folder(&self) -> Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder.map(std::fs::metadata) {
            Some(Err(e)) => Err(Error::io(&self.path, e)),
            _ => Ok(()),
        }
    }
}

/// Whether two names lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(of_a), Ok(of_b)) => same_identity((a, &of_a), (b, &of_b)),
        _ => false,
    }
}

/// Hard links have one inode.
#[cfg(unix)]
fn same_identity((_, a): (&Path, &Metadata), (_, b): (&Path, &Metadata)) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_identity((a, _): (&Path, &Metadata), (b, _): (&Path, &Metadata)) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::tempdir;

    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("out");
        let out = OutFile::new(&path).unwrap();
        out.write(|file| file.write_all(b"first")).unwrap();
        let failure = out.write(|file| {
            file.write_all(b"sec")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failure.unwrap_err().to_string().contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        out.write(|file| file.write_all(b"second")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn places_that_cannot_be_written_are_refused_before_the_work() {
        let folder = tempdir().unwrap();
        let message = |path: &Path| OutFile::new(path).unwrap_err().to_string();
        assert!(message(folder.path()).contains("it is a folder"));
        assert!(message(&folder.path().join("no/out")).contains("No such file"));
        assert!(message(&folder.path().join("new/")).contains("no name"));
        #[cfg(target_os = "linux")]
        message(Path::new("/proc/out.json"));
        assert!(message(Path::new("/")).contains("no name"));
        assert!(message(Path::new("")).contains("no name"));
    }

    #[test]
    fn two_results_take_two_files() {
        let folder = tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let at = |name: &str| OutFile::new(&folder.path().join(name)).unwrap();
        for same in ["a", "sub/../a", "./a"] {
            let error = at("a").differs_from(&at(same)).unwrap_err().to_string();
            assert!(error.contains("one would be lost"), "{error}");
        }
        at("a").differs_from(&at("b")).unwrap();
        at("a").differs_from(&at("sub/a")).unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        at("a").differs_from(&at("b")).unwrap_err();
    }

    #[test]
    fn what_a_killed_process_left_is_in_nobodys_way() {
        let folder = tempdir().unwrap();
        let left = folder.path().join(format!(".gradalign.{}.0.part", std::process::id()));
        std::fs::write(&left, "half").unwrap();
        let path = folder.path().join("out");
        OutFile::new(&path).unwrap().write(|file| file.write_all(b"whole")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read(&left).unwrap(), b"half");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_replaced_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        OutFile::new(&path).unwrap().write(|file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_stay_what_they_are() {
        let folder = tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("model"), "model").unwrap();
        std::os::unix::fs::symlink("model", at("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        std::fs::hard_link(at("model"), at("hard")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let message = |name: &str| OutFile::new(&at(name)).unwrap_err().to_string();
        assert!(message("link").contains("it is a link"));
        assert!(message("dangling").contains("it is a link"));
        assert!(message("pipe").contains("a device or a pipe"));

        for (out, source) in [("model", "model"), ("hard", "model"), ("model", "link")] {
            let error = OutFile::new(&at(out)).unwrap().spare([at(source).as_path()]).unwrap_err();
            assert!(error.to_string().contains("would be lost"), "{error}");
        }
        OutFile::new(&at("other")).unwrap().spare([at("model").as_path()]).unwrap();
    }
}
