use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use tempfile::{TempDir, tempdir};

use super::*;

/// A model without external data, one with it, and that data.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let read = |path: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/extra").join(path))
            .unwrap()
    };
    vec![
        ("./plain.onnx", read("opset11.onnx")),
        ("deep/model.onnx", read("external.onnx")),
        ("deep/notes.txt", b"notes".into()),
        ("deep/external.bin", read("external.bin")),
    ]
}

fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        // Names that the library would not write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gz_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn archive(name: &str, content: &[u8]) -> (TempDir, Archive) {
    let folder = tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, Archive::at(&path).unwrap())
}

fn all(files: &[(&str, Vec<u8>)]) -> [(TempDir, Archive); 4] {
    let tar = tar_of(files);
    [
        archive("a.tar", &tar),
        archive("a.tar.gz", &gz_of(&tar)),
        archive("a.TGZ", &gz_of(&tar)),
        archive("a.zip", &zip_of(files)),
    ]
}

#[test]
fn models_are_found_with_their_external_data() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/extra");
    let expected = |name: &str| {
        let file = Fetched::file(folder.join(name));
        let model = file.load(None).unwrap();
        file.sha256(Some(&model)).unwrap()
    };
    let expected = [expected("external.onnx"), expected("opset11.onnx")];
    for (_folder, archive) in all(&files()) {
        let models = archive.list().unwrap();
        let inside: Vec<_> = models.iter().map(|m| m.split_once(INSIDE).unwrap().1).collect();
        assert_eq!(inside, ["deep/model.onnx", "plain.onnx"]);
        for (address, expected) in models.iter().zip(&expected) {
            let (again, inside) = Archive::of_address(address).unwrap();
            let fetched = again.fetch(inside).unwrap();
            let model = fetched.load(None).unwrap();
            assert_eq!(model.source, *address);
            assert_eq!(fetched.sha256(Some(&model)).unwrap(), *expected);
        }
        let missing = archive.fetch("deep/other.onnx").unwrap_err();
        assert_eq!(missing.kind(), "io");
        assert!(missing.to_string().contains("!/deep/other.onnx: there is no such"), "{missing}");
    }
}

#[test]
fn external_data_that_is_not_packed_is_missing() {
    for (_folder, archive) in all(&files()[..3]) {
        let error = archive.fetch("deep/model.onnx").unwrap().load(None).unwrap_err().to_string();
        assert!(error.contains("'external.bin', which was not given"), "{error}");
    }
}

#[test]
fn what_leads_out_of_an_archive_is_refused() {
    for name in ["../m.onnx", "/m.onnx", "a/../../m.onnx", "C:m.onnx", "a/../notes.txt"] {
        for (_folder, archive) in all(&[(name, vec![1])]) {
            let error = archive.list().unwrap_err();
            assert_eq!(error.kind(), "invalid-model");
            assert!(error.to_string().contains("leads out of the archive"), "{error}");
        }
    }
    assert_eq!(joined("a/b", "./c.bin").as_deref(), Some("a/b/c.bin"));
    assert_eq!(joined("", "c/d.bin").as_deref(), Some("c/d.bin"));
    assert!(joined("a", "../b").is_none() && joined("a", "/b").is_none());
}

#[test]
fn links_fail_alone() {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in
        [("soft.onnx", tar::EntryType::Symlink), ("hard.onnx", tar::EntryType::Link)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, "/etc/passwd").unwrap();
    }
    let (_folder, archive) = archive("a.tar", &builder.into_inner().unwrap());
    assert_eq!(archive.list().unwrap().len(), 2);
    for name in ["soft.onnx", "hard.onnx"] {
        let error = archive.fetch(name).unwrap_err().to_string();
        assert!(error.contains("it is a link"), "{error}");
    }
}

#[test]
fn damage_and_doubles_are_told() {
    let tar = tar_of(&files());
    let packed = gz_of(&tar);
    for (name, content) in [
        ("a.tar.gz", &packed[..packed.len() / 2]),
        ("a.tar.gz", &tar),
        ("a.tar", &packed),
        ("a.tar", &tar[..5000]),
        ("a.zip", &tar),
        ("a.zip", &zip_of(&files())[..900]),
    ] {
        let (_folder, archive) = archive(name, content);
        let error = archive.list().unwrap_err().to_string();
        assert!(error.contains("truncated, damaged, or of another kind"), "{name}: {error}");
    }
    let (_folder, archive) = archive("a.tar", &tar_of(&[("m.onnx", vec![]), ("./m.onnx", vec![])]));
    assert!(archive.list().unwrap_err().to_string().contains("two members"));
}

/// A member may be whole though the archive is not: the checksum is at the end.
#[test]
fn a_checksum_that_is_wrong_is_found() {
    let mut packed = gz_of(&tar_of(&files()));
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    let (_folder, archive) = archive("nets.tar.gz", &packed);
    for error in [archive.list().unwrap_err(), archive.fetch("plain.onnx").err().unwrap()] {
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}

#[test]
fn bombs_are_not_unpacked() {
    let mut bounded = Bounded { inner: io::repeat(0), left: most(1 << 10) };
    let error = io::copy(&mut bounded, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("200 times"), "{error}");
    // A size that is claimed counts before anything is read.
    let mut header = tar::Header::new_gnu();
    header.set_path("m.onnx").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let (_folder, archive) = archive("a.tar", header.as_bytes());
    assert_eq!(archive.fetch("m.onnx").unwrap_err().kind(), "memory");
}
