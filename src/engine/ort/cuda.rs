//! What is different on a CUDA device.

use std::path::{Path, PathBuf};

use crate::emit::{ModelWriter, Target, Written};
use crate::engine::locate;
use crate::error::Result;
use crate::graph::Value;
use crate::ops::{Attr, MaxPool, Primitive, Writer};

/// Standard operators, so that CUDA finds with them what the CPU finds.
pub(super) struct Cuda;

impl Target for Cuda {
    fn write(&self, w: &mut ModelWriter, value: Value, op: &Primitive) -> Result<Written> {
        match op {
            Primitive::MaxPoolIndices(op) if op.0.kernel.len() >= 2 => {
                let x = w.graph().node(value).inputs[0];
                op.emit_with(w, x, |pool, w, x| Ok(first_winners(pool, w, x))).map(Written::As)
            }
            _ => Ok(Written::ByRule),
        }
    }
}

/// The row-major indices of the maxima of the tensor called `x`; the paddings are smaller than the
/// kernel.
///
/// CUDA looks through a window along the first axis first, and so would choose another of equal
/// elements: not so with the axes in reverse. Their column-major indices are what is wanted.
fn first_winners(pool: &MaxPool, w: &mut ModelWriter, x: &str) -> String {
    let rank = pool.kernel.len();
    let turn: Vec<usize> = [0, 1].into_iter().chain((2..rank + 2).rev()).collect();
    let reversed = |list: &[usize]| list.iter().rev().copied().collect::<Vec<_>>();
    let turned = MaxPool {
        kernel: reversed(&pool.kernel),
        strides: reversed(&pool.strides),
        dilations: reversed(&pool.dilations),
        pads_begin: reversed(&pool.pads_begin),
        pads_end: reversed(&pool.pads_end),
    };
    let mut attrs = turned.attrs(&turned.pads_begin, &turned.pads_end);
    attrs.push(("storage_order", Attr::Int(1)));
    let x = w.transpose(x, &turn);
    let at = w.nodes("MaxPool", &[&x], 2, &attrs).swap_remove(1);
    w.transpose(&at, &turn)
}

/// Loads the CUDA libraries that pip puts beside the `onnxruntime` package, where the system's
/// loader does not look. Whatever is missing shows in the probe that follows.
pub(super) fn preload(library: &Path) {
    // The libraries depend on one another in this order.
    const FAMILIES: [&str; 8] = [
        "libcudart.",
        "libnvJitLink.",
        "libcublasLt.",
        "libcublas.",
        "libnvrtc.",
        "libcurand.",
        "libcufft.",
        "libcudnn",
    ];
    let Some(packages) = library.ancestors().find(|dir| dir.join("nvidia").is_dir()) else {
        return;
    };
    let mut libraries: Vec<PathBuf> = locate::entries(&packages.join("nvidia"))
        .iter()
        .flat_map(|package| locate::entries(&package.join("lib")))
        .collect();
    libraries.sort();
    for family in FAMILIES {
        for path in libraries.iter().filter(|p| locate::name_of(p).starts_with(family)) {
            if let Err(e) = ort::util::preload_dylib(path) {
                tracing::debug!("{} cannot be loaded: {e}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ort::NAME;
    use crate::engine::ort::compile::{OperatorSet, compile};
    use crate::graph::{Builder, Fact, eval};
    use crate::ops::MaxPoolIndices;
    use crate::tensor::{DType, Tensor};

    /// As CUDA is asked for maxima, ONNX Runtime on the CPU finds the same.
    #[test]
    fn indices_of_axes_in_reverse_are_the_same() {
        let forms: [(&[usize], MaxPool); 3] = [
            (&[5, 6], MaxPool::new(&[3, 2], &[1, 2], &[1, 2], &[1, 0], &[2, 1])),
            (&[4, 7], MaxPool::new(&[2, 2], &[3, 3], &[1, 1], &[0, 0], &[2, 2])),
            (&[3, 4, 5], MaxPool::new(&[2, 2, 3], &[1, 2, 1], &[1, 1, 1], &[0, 0, 1], &[1, 0, 0])),
        ];
        for (spatial, op) in forms {
            let shape = [&[2, 3], spatial].concat();
            let mut b = Builder::default();
            let x = b.input("x", Fact::new(DType::F32, shape.clone()));
            let at = b.push(MaxPoolIndices(op), &[x]).unwrap();
            b.output("at", at);
            let graph = b.finish();
            let size: usize = shape.iter().product();
            let values = (0..size).map(|i| (i * 89 % size) as f32).collect();
            let x = [Tensor::f32(&shape, values).unwrap()];
            let expected = eval(&graph, &x).unwrap();
            let compiled = compile(&graph, OperatorSet::Cuda).unwrap();
            for engine in crate::engine::all_for_tests() {
                // tract has no such indices.
                if engine.describe().name == NAME {
                    let found = engine.load(&compiled).unwrap().run(&x).unwrap();
                    assert_eq!(found, expected);
                }
            }
        }
    }
}
