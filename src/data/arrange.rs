//! Arranging the axes of a sample as a model's input declares them.

/// How to arrange the axes of a sample.
#[derive(Debug, PartialEq)]
pub(super) enum Arrangement {
    AsIs,
    Reshape(Vec<usize>),
    /// Axis `i` of the input is axis `axes[i]` of the sample.
    Permute(Vec<usize>),
    /// Both with the channels first and with the channels last.
    Ambiguous,
    Misfit,
}

/// The arrangement of a sample of `shape` for an input whose samples have the dimensions `dims`.
pub(super) fn arrange(shape: &[usize], dims: &[Option<usize>]) -> Arrangement {
    if agrees(shape, dims) {
        return Arrangement::AsIs;
    }
    if let [flat] = dims {
        let size = shape.iter().product();
        return match flat {
            Some(flat) if *flat != size => Arrangement::Misfit,
            _ => Arrangement::Reshape(vec![size]),
        };
    }
    if let Some(shape) = up_to_unit_axes(shape, dims) {
        return Arrangement::Reshape(shape);
    }
    let rank = shape.len();
    if !(3..=4).contains(&rank) || dims.len() != rank {
        return Arrangement::Misfit;
    }
    let to_first: Vec<usize> = std::iter::once(rank - 1).chain(0..rank - 1).collect();
    let to_last: Vec<usize> = (1..rank).chain([0]).collect();
    let fits = |axes: &[usize]| agrees(&axes.iter().map(|&a| shape[a]).collect::<Vec<_>>(), dims);
    match (fits(&to_first), fits(&to_last)) {
        (true, false) => Arrangement::Permute(to_first),
        (false, true) => Arrangement::Permute(to_last),
        (true, true) => Arrangement::Ambiguous,
        (false, false) => Arrangement::Misfit,
    }
}

/// Whether a sample of `shape` can be arranged to the dimensions `dims`.
pub(crate) fn fits(shape: &[usize], dims: &[Option<usize>]) -> bool {
    !matches!(arrange(shape, dims), Arrangement::Misfit | Arrangement::Ambiguous)
}

/// Whether `shape` has the dimensions `dims` as it is.
pub(crate) fn agrees(shape: &[usize], dims: &[Option<usize>]) -> bool {
    shape.len() == dims.len() && shape.iter().zip(dims).all(|(s, d)| d.is_none_or(|d| d == *s))
}

/// `shape` with axes of size 1 added and removed so that it agrees with `dims`, if that is possible.
fn up_to_unit_axes(shape: &[usize], dims: &[Option<usize>]) -> Option<Vec<usize>> {
    let mut sizes = shape.iter().copied().filter(|&s| s != 1);
    let mut result = Vec::with_capacity(dims.len());
    for dim in dims {
        result.push(match dim {
            Some(1) => 1,
            Some(d) => sizes.next().filter(|s| s == d)?,
            None => sizes.next()?,
        });
    }
    sizes.next().is_none().then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrangements() {
        use Arrangement::{Ambiguous, AsIs, Misfit, Permute, Reshape};
        let check = |shape: &[usize], dims: &[i64], expected: Arrangement| {
            let declared: Vec<_> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
            assert_eq!(arrange(shape, &declared), expected, "{shape:?} → {dims:?}");
        };
        check(&[3, 32, 32], &[3, 32, 32], AsIs);
        check(&[3, 32, 32], &[-1, -1, -1], AsIs);
        check(&[32, 32, 3], &[3, 32, 32], Permute(vec![2, 0, 1]));
        check(&[32, 32, 3], &[3, -1, -1], Permute(vec![2, 0, 1]));
        check(&[3, 32, 32], &[32, 32, 3], Permute(vec![1, 2, 0]));
        check(&[8, 8, 8], &[8, 8, 8], AsIs);
        check(&[4, 5, 6], &[-1, 4, -1], Permute(vec![2, 0, 1]));
        check(&[5, 5, 4], &[-1, -1, 5], Ambiguous);
        check(&[4, 5, 4], &[-1, 4, -1], Ambiguous);
        check(&[3, 4, 3], &[-1, 3, 3], Permute(vec![1, 2, 0]));
        check(&[8, 8], &[1, 8, 8], Reshape(vec![1, 8, 8]));
        check(&[8, 8], &[-1, 1, 8], Reshape(vec![8, 1, 8]));
        check(&[1, 8, 8], &[8, 8], Reshape(vec![8, 8]));
        check(&[3, 4], &[12], Reshape(vec![12]));
        check(&[3, 4], &[-1], Reshape(vec![12]));
        check(&[3, 4], &[13], Misfit);
        check(&[12], &[3, 4], Misfit);
        check(&[6, 8], &[8, 6], Misfit);
        check(&[2, 2, 2], &[-1, 3, -1], Misfit);
    }
}
