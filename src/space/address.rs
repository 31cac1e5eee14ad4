//! Where a network of a space is: an address that says all that it is built of.

use super::{Architecture, BuildOptions, named};
use crate::error::{Error, Result};

/// What addresses of networks of a space begin with.
pub const SCHEME: &str = "space";

/// The address of the network that `options` make of `architecture`, such as
/// `space://nasbench101/classes=10,image-size=32,seed=0,stem=16/{…}`.
pub fn address(architecture: &dyn Architecture, options: &BuildOptions) -> String {
    let BuildOptions { classes, image_size, stem, seed } = options;
    let stem = stem.map(|stem| format!(",stem={stem}")).unwrap_or_default();
    format!(
        "{SCHEME}://{}/classes={classes},image-size={image_size},seed={seed}{stem}/{}",
        architecture.space(),
        architecture.notation()
    )
}

/// The architecture and the options that `address` is of. What it says nothing of is as by default.
///
/// # Errors
/// When it is no address of a network of a space.
pub fn at_address(address: &str) -> Result<(Box<dyn Architecture>, BuildOptions)> {
    let bad = || {
        Error::Usage(format!(
            "'{address}' is no address of a network of a search space, such as \
             {SCHEME}://nasbench201/classes=10,seed=0/|…|"
        ))
    };
    let rest = address.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix("://"));
    let mut parts = rest.ok_or_else(bad)?.splitn(3, '/');
    let (Some(space), Some(settings), Some(notation)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let mut options = BuildOptions::default();
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').ok_or_else(bad)?;
        let number = || value.parse::<usize>().map_err(|_| bad());
        match name {
            "classes" => options.classes = number()?,
            "image-size" => options.image_size = number()?,
            "stem" => options.stem = Some(number()?),
            "seed" => options.seed = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
    }
    Ok((named(space)?.parse(notation)?, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{ALL, sample};

    #[test]
    fn addresses_survive() {
        for &space in &ALL {
            let stem = space.stems().last().copied();
            let options = BuildOptions { classes: 7, image_size: 64, stem, seed: u64::MAX };
            for architecture in sample(space, 3, 1).unwrap() {
                let (again, known) = at_address(&address(&*architecture, &options)).unwrap();
                assert_eq!((again.notation(), &known), (architecture.notation(), &options));
            }
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        for (address, says) in [
            ("space://nasbench201/classes=10", "no address"),
            ("space://nasbench201/classes=ten/|a~0|", "no address"),
            ("space://nasbench201/width=1/|a~0|", "no address"),
            ("file://nasbench201//|a~0|", "no address"),
            ("space://nasbench2//|a~0|", "unknown search space 'nasbench2'"),
            ("space://nasbench201//|a~0|", "no cell of nasbench201"),
        ] {
            let error = at_address(address).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
