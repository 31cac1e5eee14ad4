//! How large a model is, by its shapes alone.

use crate::graph::Graph;
use crate::ops::{Op, Primitive};
use crate::transform::live;

/// The number of trainable scalars.
pub fn parameters(model: &Graph) -> u64 {
    model.parameters().map(|(value, _)| model.fact(value).len() as u64).sum()
}

/// The number of trainable scalars in parameters that the prediction depends on, for inputs to make a
/// difference: see [`live`].
pub fn live_parameters(model: &Graph) -> u64 {
    let live = live(model);
    let parameters = model.parameters().filter(|(value, _)| live[value.index()]);
    parameters.map(|(value, _)| model.fact(value).len() as u64).sum()
}

/// The multiply-adds of the forward pass of one sample: those of convolutions and matrix products (see
/// [`Cost::flops`](crate::ops::Cost::flops)).
pub fn flops(model: &Graph) -> u64 {
    flops_of(model, &model.live())
}

/// Those of what is [`live`].
pub fn live_flops(model: &Graph) -> u64 {
    flops_of(model, &live(model))
}

fn flops_of(model: &Graph, counted: &[bool]) -> u64 {
    let nodes = model.nodes().filter(|(value, _)| counted[value.index()]);
    nodes
        .map(|(_, node)| {
            let Op::Apply(op) = &node.op else { return 0 };
            let inputs: Vec<_> = node.inputs.iter().map(|&v| model.fact(v)).collect();
            op.cost(&inputs, &node.fact).flops
        })
        .sum()
}

/// Whether batch normalisation makes a difference to `model`.
pub fn has_batch_norm(model: &Graph) -> bool {
    model.nodes().any(|(_, node)| matches!(node.op, Op::Apply(Primitive::BatchNorm(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::made::Made;
    use crate::import::{ImportOptions, import};

    /// NAS-Bench-201's network of a cell, under construction.
    #[derive(Default)]
    struct Network {
        nodes: String,
        weights: Vec<(String, Vec<usize>)>,
        values: usize,
    }

    impl Network {
        /// The result of `call`.
        fn add(&mut self, call: &str) -> String {
            self.values += 1;
            let name = format!("v{}", self.values);
            self.nodes += &format!("{call} -> {name}\n");
            name
        }

        fn weight(&mut self, dims: &[usize]) -> String {
            // Values follow from the sum of the characters, and equal tensors would be one parameter.
            let name = "w".repeat(self.weights.len() + 1);
            self.weights.push((name.clone(), dims.to_vec()));
            name
        }

        fn conv(&mut self, x: &str, channels: [usize; 2], kernel: usize, stride: usize) -> String {
            let [from, to] = channels;
            let w = self.weight(&[to, from, kernel, kernel]);
            let pad = kernel / 2;
            self.add(&format!(
                "Conv {x} {w} strides={stride},{stride} pads={pad},{pad},{pad},{pad}"
            ))
        }

        fn norm(&mut self, x: &str, channels: usize) -> String {
            let vectors: Vec<String> = (0..4).map(|_| self.weight(&[channels])).collect();
            self.add(&format!("BatchNormalization {x} {}", vectors.join(" ")))
        }

        fn relu_conv_norm(
            &mut self,
            x: &str,
            of: [usize; 2],
            kernel: usize,
            stride: usize,
        ) -> String {
            let x = self.add(&format!("Relu {x}"));
            let x = self.conv(&x, of, kernel, stride);
            self.norm(&x, of[1])
        }

        /// A cell; `ops` are those of the edges 0→1, 0→2, 1→2, 0→3, 1→3, 2→3.
        fn cell(&mut self, x: &str, channels: usize, ops: [&str; 6]) -> String {
            let mut nodes = vec![x.to_owned()];
            let mut ops = ops.into_iter();
            for to in 1..4 {
                let mut sum: Option<String> = None;
                for from in nodes.iter().take(to).cloned() {
                    let y = match ops.next().unwrap() {
                        "none" => self.add(&format!("Mul {from} zero")),
                        "skip" => from,
                        "conv1" => self.relu_conv_norm(&from, [channels; 2], 1, 1),
                        "conv3" => self.relu_conv_norm(&from, [channels; 2], 3, 1),
                        "pool" => self.add(&format!(
                            "AveragePool {from} kernel_shape=3,3 strides=1,1 pads=1,1,1,1"
                        )),
                        other => panic!("{other}"),
                    };
                    sum = Some(match sum {
                        Some(sum) => self.add(&format!("Add {sum} {y}")),
                        None => y,
                    });
                }
                nodes.extend(sum);
            }
            nodes.remove(3)
        }

        fn of(ops: [&str; 6]) -> Graph {
            let mut net = Network::default();
            let x = net.conv("x", [3, 16], 3, 1);
            let mut x = net.norm(&x, 16);
            for channels in [16, 32, 64] {
                if channels > 16 {
                    let half = channels / 2;
                    let y = net.relu_conv_norm(&x, [half, channels], 3, 2);
                    let y = net.relu_conv_norm(&y, [channels; 2], 3, 1);
                    let pool = format!("AveragePool {x} kernel_shape=2,2 strides=2,2");
                    let pooled = net.add(&pool);
                    let short = net.conv(&pooled, [half, channels], 1, 1);
                    x = net.add(&format!("Add {short} {y}"));
                }
                for _ in 0..5 {
                    x = net.cell(&x, channels, ops);
                }
            }
            let x = net.norm(&x, 64);
            let x = net.add(&format!("Relu {x}"));
            let x = net.add(&format!("GlobalAveragePool {x}"));
            let x = net.add(&format!("Flatten {x}"));
            let (w, b) = (net.weight(&[10, 64]), net.weight(&[10]));
            let y = net.add(&format!("Gemm {x} {w} {b} transB=1"));
            let made = Made::new(&[0, 3, 32, 32]).scalar("zero", 0.0).nodes(&net.nodes);
            let made = net.weights.iter().fold(made, |made, (name, dims)| made.weight(name, dims));
            import(&made.output(&y), &ImportOptions::default()).unwrap().graph
        }
    }

    /// The numbers of all parameters are published.
    #[test]
    fn live_parameters_of_nas_bench_201() {
        let counts = |ops| {
            let graph = Network::of(ops);
            [parameters(&graph), live_parameters(&graph), flops(&graph), live_flops(&graph)]
        };
        // Architecture 6: two of its three 3×3 convolutions have a path.
        let [all, live, flops, live_flops] =
            counts(["conv3", "none", "none", "pool", "conv3", "conv3"]);
        assert_eq!((all, live), (802_426, 559_386));
        // A cell's 3×3 convolution has 9·C² weights at 1024, 256 and 64 positions.
        assert_eq!(flops - live_flops, 5 * 9 * (16 * 16 * 1024 + 32 * 32 * 256 + 64 * 64 * 64));
        // Architecture 0 has no edge of zeros.
        let [all, live, flops, live_flops] =
            counts(["pool", "conv1", "skip", "conv1", "skip", "skip"]);
        assert_eq!((all, live), (129_306, 129_306));
        assert_eq!((flops, live_flops), (15_647_360, 15_647_360));
        // Nothing arrives.
        let [all, live, _, live_flops] = counts(["conv3", "conv3", "skip", "none", "none", "none"]);
        assert_eq!((live, live_flops), (0, 0));
        assert!(all > 500_000);
    }
}
