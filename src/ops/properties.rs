//! What is known of a primitive without running it: what it costs, and how it scales.

use super::Primitive;
use crate::ir::Fact;

/// What one run of a primitive costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds of convolutions and matrix products. Elementwise work, normalisation and
    /// pooling are not counted, as is usual for the size of a network.
    pub flops: u64,
    /// Bytes of memory beside operands and result.
    pub workspace: u64,
}

/// How a result scales when floating-point operands are multiplied by positive numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Homogeneity {
    /// Of this degree in each operand by itself: `f(a·x, b·y) = aᵖ·b^q·f(x, y)` for `[p, q]`.
    /// Operands that are not floating-point have degree 0.
    Each(&'static [f64]),
    /// Of this degree in all operands together: `f(c·x, c·y) = cᵈ·f(x, y)`.
    Joint(i32),
    /// Not homogeneous, or of a degree that depends on the shapes.
    None,
}

impl Homogeneity {
    /// Of degree 1 in the only operand.
    pub fn linear() -> Self {
        Homogeneity::Each(&[1.0])
    }

    /// Of degree 1 in both operands.
    pub fn bilinear() -> Self {
        Homogeneity::Each(&[1.0, 1.0])
    }

    /// Whether the result is proportional to the scale that the operands in `scaled` share, where
    /// the others have none.
    pub fn is_proportional(self, scaled: &[bool]) -> bool {
        match self {
            Homogeneity::Each(degrees) => {
                let degrees = degrees.iter().zip(scaled).filter(|(_, scaled)| **scaled);
                degrees.map(|(degree, _)| degree).sum::<f64>() == 1.0
            }
            Homogeneity::Joint(degree) => degree == 1,
            Homogeneity::None => false,
        }
    }
}

impl Primitive {
    /// The cost of a run on operands of dtype and shape `x` with a result of dtype and shape `out`.
    pub fn cost(&self, x: &[&Fact], out: &Fact) -> Cost {
        self.rule().cost(x, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::*;
    use crate::tensor::{DType, Tensor};

    /// Each primitive, and each function of the elementwise ones, with the operands of an example.
    /// A new primitive has to be added here: see `every_primitive_has_an_example`.
    fn examples() -> Vec<(Primitive, Vec<Fact>)> {
        let float = |shape: &[usize]| Fact::new(DType::F64, shape);
        let bool = |shape: &[usize]| Fact::new(DType::Bool, shape);
        let index = |shape: &[usize]| Fact::new(DType::I64, shape);
        let (image, matrix) = (float(&[1, 2, 4, 4]), float(&[3, 3]));
        let pool = MaxPool::new(&[2, 2], &[2, 2], &[1, 1], &[1, 1], &[0, 0]);
        let window = || Window { pads_begin: vec![1, 1], ..Window::plain(2) };
        let norm = |mode| BatchNorm { epsilon: 1e-5.into(), mode };
        let mut all: Vec<(Primitive, Vec<Fact>)> = vec![
            (AveragePool::new(&[2, 2], &[2, 2], &[1, 1], &[0, 0]).into(), vec![image.clone()]),
            (
                norm(BatchNormMode::Running).into(),
                [vec![image.clone()], vec![float(&[2]); 4]].concat(),
            ),
            (Concat { axis: 0 }.into(), vec![matrix.clone(); 2]),
            (Conv { window: window() }.into(), vec![image.clone(), float(&[3, 2, 3, 3])]),
            (
                ConvInputGrad { window: window(), spatial: vec![4, 4] }.into(),
                vec![float(&[1, 3, 3, 3]), float(&[3, 2, 3, 3])],
            ),
            (
                ConvWeightGrad { window: window(), kernel: vec![3, 3], lanes: 1 }.into(),
                vec![image.clone(), float(&[1, 3, 3, 3])],
            ),
            (CumSum { axis: 0, exclusive: true, reverse: false }.into(), vec![matrix.clone()]),
            (Detach.into(), vec![matrix.clone()]),
            (Expand { shape: vec![2, 3, 3] }.into(), vec![matrix.clone()]),
            (Gather { axis: 1 }.into(), vec![matrix.clone(), index(&[2])]),
            (MatMul { trans_a: true, trans_b: false }.into(), vec![float(&[2, 3]); 2]),
            (pool.clone().into(), vec![image.clone()]),
            (MaxPoolIndices(pool).into(), vec![image]),
            (Reshape { shape: vec![9] }.into(), vec![matrix.clone()]),
            (ScatterAdd { axis: 0, size: 3 }.into(), vec![index(&[2]), float(&[2, 3])]),
            (SignGram { groups: 1, size: 3 }.into(), vec![matrix.clone(); 2]),
            (
                Slice { starts: vec![0, 1], ends: vec![3, 3], steps: vec![2, 1] }.into(),
                vec![matrix.clone()],
            ),
            (TopK { axis: 1, count: 2, largest: true }.into(), vec![matrix.clone()]),
            (Transpose { perm: vec![1, 0] }.into(), vec![matrix.clone()]),
            (Where.into(), vec![bool(&[3, 3]), matrix.clone(), matrix.clone()]),
        ];
        for to in [DType::F32, DType::I64] {
            all.push((Cast { to }.into(), vec![matrix.clone()]));
        }
        for value in [0.0, 1.0] {
            let pad = Pad { before: vec![1, 0], after: vec![0, 1], value: value.into() };
            all.push((pad.into(), vec![matrix.clone()]));
        }
        for log in [false, true] {
            all.push((Softmax { axis: 1, log }.into(), vec![matrix.clone()]));
        }
        use Reduction as R;
        for kind in [R::Max, R::Mean, R::Min, R::Prod, R::Sum] {
            all.push((Reduce { kind, axes: vec![1] }.into(), vec![matrix.clone()]));
        }
        use Binary as B;
        for f in [B::Add, B::Div, B::Max, B::Min, B::Mod, B::Mul, B::Pow, B::Sub] {
            all.push((f.into(), vec![matrix.clone(); 2]));
        }
        for f in [B::Equal, B::Greater, B::GreaterOrEqual, B::Less, B::LessOrEqual] {
            all.push((f.into(), vec![matrix.clone(); 2]));
        }
        for f in [B::And, B::Or, B::Xor] {
            all.push((f.into(), vec![bool(&[3, 3]); 2]));
        }
        use Unary as U;
        #[rustfmt::skip]
        let functions = [
            U::Abs, U::Acos, U::Acosh, U::Asin, U::Asinh, U::Atan, U::Atanh, U::Ceil, U::Cos, U::Cosh,
            U::Erf, U::Exp, U::Floor, U::IsInf, U::IsNaN, U::Log, U::Neg, U::Reciprocal, U::Relu,
            U::Round, U::Sigmoid, U::Sign, U::Sin, U::Sinh, U::Softplus, U::Sqrt, U::Tan, U::Tanh,
        ];
        all.extend(functions.map(|f| (f.into(), vec![matrix.clone()])));
        all.push((U::Not.into(), vec![bool(&[3, 3])]));
        all
    }

    /// Distinct values between 0.1 and 0.9, different for each operand; indices below 3.
    fn values(fact: &Fact, operand: usize) -> Tensor {
        let value = |i: usize| 0.1 + 0.8 * ((i * 29 + operand * 17) % 53) as f64 / 53.0;
        let value = |i: usize| match fact.dtype {
            DType::Bool => (i % 2) as f64,
            DType::I64 => ((2 * i + operand) % 3) as f64,
            _ => value(i),
        };
        let values = (0..fact.len()).map(value).collect();
        Tensor::f64(&fact.shape, values).unwrap().cast(fact.dtype)
    }

    fn run(op: &Primitive, x: &[Tensor]) -> Tensor {
        let facts: Vec<Fact> = x.iter().map(Fact::of).collect();
        let out = op.rule().infer(&facts.iter().collect::<Vec<_>>()).unwrap();
        op.rule().eval(&x.iter().collect::<Vec<_>>(), &out).unwrap()
    }

    fn scaled(x: &Tensor, factor: f64) -> Tensor {
        match x.dtype().is_float() {
            true => Tensor::from_f64(x.to_f64() * factor, x.dtype()),
            false => x.clone(),
        }
    }

    #[test]
    fn every_primitive_has_an_example() {
        let mut names: Vec<&str> = examples().iter().map(|(op, _)| op.family()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, Primitive::FAMILIES);
    }

    /// Powers of two as factors make exact multiples of all results.
    #[test]
    fn results_scale_by_their_degrees() {
        for (op, facts) in examples() {
            let x: Vec<Tensor> = facts.iter().enumerate().map(|(i, f)| values(f, i)).collect();
            let y = run(&op, &x).to_f64();
            let check = |factors: &[f64], expected: f64| {
                let x: Vec<_> = x.iter().zip(factors).map(|(x, &c)| scaled(x, c)).collect();
                let got = run(&op, &x).to_f64();
                for (got, y) in got.iter().zip(&y) {
                    assert!((got - y * expected).abs() <= 1e-12 * got.abs(), "{op:?}: {got} {y}");
                }
            };
            match op.rule().homogeneity() {
                Homogeneity::Each(degrees) => {
                    assert_eq!(degrees.len(), x.len(), "{op:?}");
                    for (i, degree) in degrees.iter().enumerate() {
                        let mut factors = vec![1.0; x.len()];
                        factors[i] = 4.0;
                        check(&factors, 4f64.powf(*degree));
                    }
                }
                Homogeneity::Joint(degree) => check(&vec![4.0; x.len()], 4f64.powi(degree)),
                Homogeneity::None => {
                    let multiple = |c: f64| {
                        let x: Vec<_> = x.iter().map(|x| scaled(x, c)).collect();
                        let got = run(&op, &x).to_f64();
                        got.iter().zip(&y).all(|(got, y)| (got - c * y).abs() <= 1e-12 * got.abs())
                    };
                    // Rounding to integers is close to proportional where values are large.
                    assert!(!multiple(4.0) || !multiple(0.25), "{op:?} is homogeneous");
                }
            }
        }
    }

    #[test]
    fn what_moves_elements_makes_no_new_ones() {
        for (op, facts) in examples() {
            let x: Vec<Tensor> = facts.iter().enumerate().map(|(i, f)| values(f, i)).collect();
            if op.rule().moves() {
                assert_eq!(x.len(), 1, "{op:?}");
                let own: Vec<f64> = x[0].to_f64().into_iter().collect();
                assert!(run(&op, &x).to_f64().iter().all(|v| own.contains(v)), "{op:?}");
            }
        }
    }

    /// Every set of operands is made zero in turn.
    #[test]
    fn what_vanishes_is_zero() {
        let with = |fact: &Fact, operand: usize, is_zero: bool, negated: bool| {
            let x = values(fact, operand);
            match (is_zero, fact.dtype) {
                (true, _) => Tensor::full(fact.dtype, &fact.shape, 0.0),
                (false, dtype) if negated && dtype.is_float() => scaled(&x, -1.0),
                (false, DType::Bool) if negated => Tensor::from_f64(1.0 - x.to_f64(), DType::Bool),
                _ => x,
            }
        };
        for (op, facts) in examples() {
            for set in 1..1usize << facts.len() {
                let zero: Vec<bool> = (0..facts.len()).map(|i| set >> i & 1 == 1).collect();
                let [is_zero, is_zero_negated] = [false, true].map(|negated| {
                    let x = facts.iter().enumerate().map(|(i, f)| with(f, i, zero[i], negated));
                    run(&op, &x.collect::<Vec<_>>()).is_all(0.0)
                });
                match op.rule().vanishes(&zero) {
                    true => assert!(is_zero, "{op:?} {zero:?}"),
                    // None of the values equals 0, though others do.
                    false if op == Binary::Equal.into() => {}
                    false => assert!(!(is_zero && is_zero_negated), "{op:?} {zero:?}"),
                }
            }
        }
    }

    /// The multiply-adds are the products that `eval` adds up: the sum over a result where all
    /// operands are 1.
    #[test]
    fn flops_are_the_terms_of_all_sums() {
        let ones = |fact: &Fact| Tensor::full(fact.dtype, &fact.shape, 1.0);
        for (op, facts) in examples() {
            let x: Vec<Tensor> = facts.iter().map(ones).collect();
            let y = run(&op, &x);
            let refs: Vec<&Fact> = facts.iter().collect();
            let flops = op.cost(&refs, &Fact::of(&y)).flops;
            // Products with padding are counted as well.
            let counted = y.to_f64().sum() as u64;
            match op {
                Primitive::MatMul(_) => assert_eq!(flops, counted),
                Primitive::Conv(_) | Primitive::ConvInputGrad(_) | Primitive::ConvWeightGrad(_) => {
                    assert!(flops >= counted && flops == 9 * 2 * 3 * 9, "{op:?}: {flops}");
                }
                _ => assert_eq!(flops, 0, "{op:?}"),
            }
        }
    }

    #[test]
    fn proportional_is_what_has_degree_one() {
        let of = |op: Primitive, scaled: &[bool]| op.rule().homogeneity().is_proportional(scaled);
        assert!(of(Binary::Mul.into(), &[true, false]));
        assert!(!of(Binary::Mul.into(), &[true, true]));
        assert!(of(Binary::Div.into(), &[true, false]));
        assert!(!of(Binary::Div.into(), &[false, true]));
        assert!(of(Binary::Add.into(), &[true, true]));
        assert!(!of(Unary::Sqrt.into(), &[true]));
    }
}
