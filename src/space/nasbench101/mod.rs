//! NAS-Bench-101: cells of at most seven vertices and nine edges.
//!
//! C. Ying et al.: *NAS-Bench-101: Towards Reproducible Neural Architecture Search*, ICML 2019.

mod cell;

use rand::{Rng, RngExt};
use serde::Deserialize;

use self::cell::{Cell, Op};
use super::blocks::conv_norm_relu;
use super::network::{Features, Init, Network, Window};
use super::{Architecture, BuildOptions, Space, not_indexed};
use crate::error::{Error, Result};
use crate::onnx::Model;

/// The channels of the stem: of the benchmark, and of the code that came with NASWOT and GradSign.
const STEMS: [usize; 2] = [128, 16];

/// Stacks of cells, and how many cells one has.
const STACKS: usize = 3;
const CELLS: usize = 3;

/// The space.
pub(super) struct NasBench101;

impl Space for NasBench101 {
    fn name(&self) -> &'static str {
        "nasbench101"
    }

    fn form(&self) -> &'static str {
        "JSON with \"matrix\", rows of 0 and 1 that say which later vertex reads which, and \"ops\", \
         from \"input\" to \"output\" with \"conv3x3-bn-relu\", \"conv1x1-bn-relu\", \"maxpool3x3\" between"
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        Err(not_indexed(self, index))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let cell = serde_json::from_str(text).map_err(|e| e.to_string()).and_then(cell_of);
        match cell {
            Ok(cell) => Ok(Box::new(cell)),
            Err(why) => Err(Error::Usage(format!(
                "no cell of {}: {why}; give {}",
                self.name(),
                self.form()
            ))),
        }
    }

    fn stems(&self) -> &'static [usize] {
        &STEMS
    }

    /// As the benchmark's own code draws: edges and operations at random until they make a cell.
    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        loop {
            let edge =
                |from: usize, to: usize, rng: &mut dyn Rng| from < to && rng.random::<bool>();
            let row = |from: usize, rng: &mut dyn Rng| {
                (0..cell::VERTICES).map(|to| edge(from, to, rng)).collect()
            };
            let matrix = (0..cell::VERTICES).map(|from| row(from, rng)).collect();
            let ops = (2..cell::VERTICES).map(|_| Op::ALL[rng.random_range(0..Op::ALL.len())]);
            if let Ok(cell) = Cell::new(matrix, ops.collect()) {
                return Box::new(cell);
            }
        }
    }
}

/// A cell as it is written. Records have more fields than that.
#[derive(Deserialize)]
struct Written {
    matrix: Vec<Vec<u8>>,
    ops: Vec<String>,
}

fn cell_of(Written { matrix, ops }: Written) -> Result<Cell, String> {
    let [input, between @ .., output] = ops.as_slice() else {
        return Err("there must be two operations at least, \"input\" and \"output\"".into());
    };
    if (input.as_str(), output.as_str()) != ("input", "output") {
        return Err("the first operation must be \"input\" and the last \"output\"".into());
    }
    if matrix.len() != ops.len() || matrix.iter().any(|row| row.len() != ops.len()) {
        return Err(format!("the matrix must have {0} rows of {0} numbers", ops.len()));
    }
    if matrix.iter().flatten().any(|&edge| edge > 1) {
        return Err("the matrix must be of 0 and 1".into());
    }
    let op =
        |name: &String| Op::named(name).ok_or_else(|| format!("there is no operation \"{name}\""));
    let ops = between.iter().map(op).collect::<Result<_, _>>()?;
    let matrix = matrix.into_iter().map(|row| row.into_iter().map(|edge| edge == 1).collect());
    Cell::new(matrix.collect(), ops)
}

impl Architecture for Cell {
    fn space(&self) -> &'static str {
        NasBench101.name()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.space(), self.hash())
    }

    fn notation(&self) -> String {
        let ops: Vec<&str> = self.ops().iter().map(|op| op.name()).collect();
        let ops = [&["input"], ops.as_slice(), &["output"]].concat();
        let rows: Vec<Vec<u8>> =
            self.matrix().iter().map(|row| row.iter().map(|&edge| edge.into()).collect()).collect();
        serde_json::json!({ "matrix": rows, "ops": ops }).to_string()
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&NasBench101, 4)?;
        let stem = options.stem.unwrap_or(STEMS[0]);
        // The networks of that code come with their own initialisation.
        let init = if stem == STEMS[1] { Init::FanOut } else { Init::PyTorch };
        let (mut n, x) = Network::new(options, init);
        let mut x = conv_norm_relu(&mut n, "stem", &x, stem, Window::square(3, 1));
        for stack in 0..STACKS {
            if stack > 0 {
                x = n.max_pool(&format!("reduce{stack}"), &x, Window::square(2, 2));
            }
            for i in 0..CELLS {
                x = write(&mut n, &format!("stack{stack}.cell{i}"), &x, self, stem << stack);
            }
        }
        Ok(n.classify(&x, self))
    }
}

/// The cell on `x`, with `channels` channels.
fn write(n: &mut Network, name: &str, x: &Features, cell: &Cell, channels: usize) -> Features {
    let one = Window::square(1, 1);
    let widths = cell.widths(channels);
    let output = cell.ops().len() + 1;
    let mut vertices = vec![x.clone()];
    for (vertex, (op, &width)) in (1..).zip(cell.ops().iter().zip(&widths)) {
        let name = format!("{name}.vertex{vertex}");
        let mut sum: Option<Features> = None;
        let read = |(source, _): &(usize, &Features)| cell.has_edge(*source, vertex);
        for (source, features) in vertices.iter().enumerate().filter(read) {
            let edge = format!("{name}.{source}");
            // The input is projected; of another vertex, the first channels are taken.
            let y = match source {
                0 => conv_norm_relu(n, &edge, features, width, one),
                _ => n.first_channels(&edge, features, width),
            };
            sum = Some(match sum {
                None => y,
                Some(sum) => n.add(&format!("{edge}.sum"), &sum, &y),
            });
        }
        // A vertex that nothing leads to has been taken out.
        let y = sum.unwrap_or_else(|| x.clone());
        vertices.push(match op {
            Op::Conv3 => conv_norm_relu(n, &name, &y, width, Window::square(3, 1)),
            Op::Conv1 => conv_norm_relu(n, &name, &y, width, one),
            Op::MaxPool => n.max_pool(&name, &y, Window::square(3, 1)),
        });
    }
    let read: Vec<Features> = (1..output)
        .filter(|&vertex| cell.has_edge(vertex, output))
        .map(|vertex| vertices[vertex].clone())
        .collect();
    let direct = (cell.has_edge(0, output))
        .then(|| conv_norm_relu(n, &format!("{name}.direct"), x, channels, one));
    match (read.is_empty(), direct) {
        (true, Some(direct)) => direct,
        (_, direct) => {
            let y = n.concat(&format!("{name}.output"), &read);
            match direct {
                Some(direct) => n.add(&format!("{name}.sum"), &y, &direct),
                None => y,
            }
        }
    }
}

#[cfg(test)]
mod tests;
