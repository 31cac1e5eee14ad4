//! A folder with one folder of images per class.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageReader};
use ndarray::Array3;
use sha2::{Digest, Sha256};

use super::{Content, Labels, Source, cifar};
use crate::error::{Error, Result};
use crate::file::{self, hex};

const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

pub(super) fn open(folder: &Path) -> Result<Source> {
    let mut labels = Vec::new();
    let mut files = Vec::new();
    let mut warnings = Vec::new();
    for (class, path) in entries(folder)?.into_iter().filter(|path| path.is_dir()).enumerate() {
        let before = files.len();
        files.extend(entries(&path)?.into_iter().filter(|path| is_image(path)));
        if files.len() == before {
            warnings.push(format!("{}: no PNG or JPEG image in it", path.display()));
        }
        labels.resize(files.len(), class as i64);
    }
    if files.is_empty() {
        return Err(Error::Data(format!("{}: {}", folder.display(), advice(folder)?)));
    }

    let len = files.len();
    let root = folder.to_path_buf();
    let read = move |indices: &[usize]| {
        let mut digest = Sha256::new();
        let mut images = Vec::with_capacity(indices.len());
        for path in indices.iter().map(|&index| &files[index]) {
            let bytes = file::read(path)?;
            let name = path.strip_prefix(&root).unwrap_or(path);
            digest.update(name.to_string_lossy().as_bytes());
            digest.update([0]);
            digest.update(&bytes);
            images.push(decode(path, &bytes)?);
        }
        Ok((Content::Images(same_channels(images)), hex(digest)))
    };
    Ok(Source { labels: Labels::Classes(labels), len, warnings, read: Box::new(read) })
}

/// The message for a folder without class folders of images.
fn advice(folder: &Path) -> Result<String> {
    let children = entries(folder)?;
    let has = |folder: &Path, name: &str| folder.join(name).is_file();
    let pickled = |folder: &Path| {
        has(folder, "data_batch_1") || (has(folder, "meta") && has(folder, "train"))
    };
    if let Some(found) =
        [folder].into_iter().chain(children.iter().map(PathBuf::as_path)).find(|f| pickled(f))
    {
        return Ok(format!(
            "{} is CIFAR as Python pickles, which are not read; download the binary version \
             (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) and give its folder",
            found.display()
        ));
    }
    let mut below = Vec::new();
    for child in children.iter().filter(|child| child.is_dir()) {
        let classes = entries(child)?.into_iter().filter(|class| class.is_dir());
        let mut of_classes = Vec::new();
        for class in classes {
            of_classes.extend(entries(&class)?);
        }
        if of_classes.iter().any(|path| is_image(path)) || !cifar::training_files(child)?.is_empty()
        {
            below.push(child);
        }
    }
    let train = below.iter().find(|child| child.file_name().is_some_and(|name| name == "train"));
    Ok(match train.or(below.first()) {
        Some(child) => format!(
            "no images in its folders; the class folders are one level down: use {}",
            child.display()
        ),
        None => "no images found; it needs a folder for each class with PNG or JPEG images inside"
            .into(),
    })
}

/// The entries of a folder except hidden ones, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    path.is_file()
        && path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e.eq_ignore_ascii_case(x)))
}

/// Decodes an image. The decoder limits the memory that a damaged header can request.
fn decode(path: &Path, bytes: &[u8]) -> Result<DynamicImage> {
    let failed = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
    ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| failed(e.to_string()))?
        .decode()
        .map_err(|e| failed(e.to_string()))
}

/// Converts all images to grey if all are grey, else to RGB. Transparency is dropped.
fn same_channels(images: Vec<DynamicImage>) -> Vec<Array3<u8>> {
    let colour = images.iter().any(|image| image.color().has_color());
    let to_array = |image: DynamicImage| {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (channels, pixels) = if colour {
            (3, image.into_rgb8().into_raw())
        } else {
            (1, image.into_luma8().into_raw())
        };
        Array3::from_shape_fn((height, width, channels), |(row, column, channel)| {
            pixels[(row * width + column) * channels + channel]
        })
    };
    images.into_iter().map(to_array).collect()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Rgb, RgbImage};
    use tempfile::TempDir;

    use super::super::{Dataset, Options, Samples};
    use super::*;

    fn open_all(path: &Path) -> Result<Dataset> {
        let options = Options { samples: Samples::All, ..Options::default() };
        Dataset::open(path.to_str().unwrap(), &options)
    }

    #[test]
    fn class_folders_are_numbered_in_order() {
        let root = TempDir::new().unwrap();
        for (class, shade) in [("dogs", 200), ("cats", 100)] {
            let folder = root.path().join(class);
            std::fs::create_dir(&folder).unwrap();
            RgbImage::from_pixel(4, 2, Rgb([shade, 0, 0])).save(folder.join("b.PNG")).unwrap();
            GrayImage::new(3, 3).save(folder.join("a.jpg")).unwrap();
            std::fs::write(folder.join("notes.txt"), "not an image").unwrap();
        }
        std::fs::create_dir(root.path().join("nothing")).unwrap();
        std::fs::create_dir(root.path().join(".hidden")).unwrap();

        let data = open_all(root.path()).unwrap();
        assert_eq!(data.labels, Labels::Classes(vec![0, 0, 1, 1]));
        assert_eq!(data.warnings().len(), 1);
        let Content::Images(images) = &data.content else { panic!("not images") };
        // One image in colour makes all of them RGB.
        assert_eq!(images[0].shape(), [3, 3, 3]);
        assert_eq!(images[1].shape(), [2, 4, 3]);
        assert_eq!((images[1][[0, 0, 0]], images[3][[1, 3, 0]]), (100, 200));
        let again = open_all(root.path()).unwrap();
        assert_eq!(again.description(), data.description());
    }

    #[test]
    fn folders_of_other_arrangements_say_what_to_do() {
        let message = |files: &[&str]| {
            let root = TempDir::new().unwrap();
            for file in files {
                let path = root.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            open_all(root.path()).unwrap_err().to_string()
        };
        for (files, says) in [
            (&["test/cats/a.png", "train/cats/a.png"][..], "one level down: use "),
            (&["cifar-10-batches-bin/data_batch_1.bin"], "cifar-10-batches-bin"),
            (&["data_batch_1", "batches.meta"], "cifar-10-binary.tar.gz"),
            (&["cifar-10-batches-py/data_batch_1"], "cifar-10-batches-py is CIFAR"),
            (&["train", "test", "meta"], "pickles"),
            (&["a/b/c/d.png"], "a folder for each class"),
        ] {
            let message = message(files);
            assert!(message.contains(says), "{files:?}: {message}");
        }
        assert!(message(&["val/x/a.png", "train/x/a.jpg"]).ends_with("train"));
        assert!(message(&["b/x/a.png", "a/x/a.jpg"]).ends_with("/a"));
    }

    #[test]
    fn folders_without_images_and_broken_images_are_errors() {
        let root = TempDir::new().unwrap();
        let none = open_all(root.path()).unwrap_err().to_string();
        assert!(none.contains("a folder for each class"), "{none}");
        std::fs::create_dir(root.path().join("a")).unwrap();
        std::fs::write(root.path().join("a/x.png"), b"\x89PNG\r\n\x1a\nrubbish").unwrap();
        assert!(open_all(root.path()).unwrap_err().to_string().contains("x.png"));
    }
}
