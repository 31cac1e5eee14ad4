//! Graphs as text, a line a value.

use std::fmt;

use super::{Graph, Op, Operation};
use crate::tensor::{DType, Tensor};

/// Constants show at most this many elements.
const SHOWN: usize = 8;

/// ```text
/// %0 float32[1, 4] = input 'x'
/// %1 float32[4, 2] = parameter 'w'
/// %2 float32[1, 2] = MatMul(%0, %1)  # classifier
/// output 'logits' = %2
/// ```
impl<P: Operation> fmt::Display for Graph<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            write!(f, "%{i} {} = ", node.fact)?;
            match &node.op {
                Op::Input(name) => write!(f, "input '{name}'")?,
                Op::Parameter(parameter) => write!(f, "parameter '{}'", parameter.name)?,
                Op::Constant(tensor) => {
                    f.write_str("constant ")?;
                    write_elements(f, tensor)?;
                }
                Op::Apply(op) => {
                    let operands: Vec<String> =
                        node.inputs.iter().map(|v| format!("%{}", v.0)).collect();
                    write!(f, "{}({})", op.name(), operands.join(", "))?;
                    let attributes = op.attributes();
                    if !attributes.is_empty() {
                        write!(f, " {attributes}")?;
                    }
                }
            }
            if !node.scope.is_empty() {
                write!(f, "  # {}", node.scope)?;
            }
            writeln!(f)?;
        }
        for output in &self.outputs {
            writeln!(f, "output '{}' = %{}", output.name, output.value.0)?;
        }
        Ok(())
    }
}

/// A scalar as a number, anything else as a flat list of its first elements.
fn write_elements(f: &mut fmt::Formatter<'_>, tensor: &Tensor) -> fmt::Result {
    let values = tensor.to_f64();
    let number = |v: &f64| match tensor.dtype() {
        DType::Bool => (*v != 0.0).to_string(),
        DType::F32 => (*v as f32).to_string(),
        _ => v.to_string(),
    };
    let mut shown: Vec<String> = values.iter().take(SHOWN).map(number).collect();
    if tensor.shape().is_empty() {
        return f.write_str(&shown.concat());
    }
    if values.len() > SHOWN {
        shown.push("…".into());
    }
    write!(f, "[{}]", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use crate::graph::{Builder, Fact};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn a_graph_reads_line_by_line() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 12]));
        let w = b.parameter("w", Tensor::full(DType::F32, &[12, 12], 0.5));
        let ramp =
            b.constant(Tensor::f32(&[12], (0..12).map(|i| i as f32 / 4.0).collect()).unwrap());
        b.set_scope("fc");
        let y = b.matmul_t(x, w, false, true).unwrap();
        let y = b.add(y, ramp).unwrap();
        b.set_scope("head");
        let y = b.relu(y).unwrap();
        let y = b.scale(y, 0.1).unwrap();
        let y = b.pad(y, &[0, 1], &[0, 0], 0.1).unwrap();
        let y = b.reshape(y, &[13]).unwrap();
        b.output("y", y);
        let expected = "\
%0 float32[1, 12] = input 'x'
%1 float32[12, 12] = parameter 'w'
%2 float32[12] = constant [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, …]
%3 float32[1, 12] = MatMul(%0, %1) { trans_a: false, trans_b: true }  # fc
%4 float32[1, 12] = Add(%2, %3)  # fc
%5 float32[1, 12] = Relu(%4)  # head
%6 float32[] = constant 0.1  # head
%7 float32[1, 12] = Mul(%5, %6)  # head
%8 float32[1, 13] = Pad(%7) { before: [0, 1], after: [0, 0], value: 0.1 }  # head
%9 float32[13] = Reshape(%8) { shape: [13] }  # head
output 'y' = %9
";
        assert_eq!(b.finish().to_string(), expected);
    }
}
