//! The kernels of [`crate::kernel`] as operators of ONNX Runtime.
//!
//! They run on the session's own threads: a second pool beside those, which wait in a loop for
//! work, would take the processor from them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use ort::Error;
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput,
    OperatorOutput,
};
use ort::value::TensorElementType;
use ort::value::TensorElementType::{Float32, Float64, Int32};

use crate::emit::KERNELS;
use crate::kernel::{CleanSum, ConvWeightGrad, SignGram, Signs, packed_len};

/// All operators. A domain is made for each session: it cannot go from thread to thread.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(KERNELS)?
        .add(Kernel { name: "CleanSum", outputs: &[Float32], make: clean_sum })?
        .add(Kernel { name: "ConvWeightGrad", outputs: &[Float32], make: conv_weight_grad })?
        .add(Kernel { name: "ConvWeightGradSigns", outputs: &[Int32], make: conv_weight_signs })?
        .add(Kernel { name: "SignGram", outputs: &[Float64], make: sign_gram })
}

/// What an operator does on a run.
type Compute = Box<dyn Fn(&ComputeContext) -> ort::Result<()> + Send>;

/// An operator on any number of operands.
struct Kernel {
    name: &'static str,
    outputs: &'static [TensorElementType],
    /// Reads the node's attributes.
    make: fn(&Attributes) -> ort::Result<Compute>,
}

impl Operator for Kernel {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::variadic(1)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.outputs.iter().map(|&dtype| OperatorOutput::required(dtype))
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<BoxedKernel<'attr>> {
        let compute = (self.make)(&Attributes(context))?;
        let name = self.name;
        // A panic must not pass through ONNX Runtime's frames.
        Ok(Box::new(move |context: &ComputeContext| {
            catch_unwind(AssertUnwindSafe(|| compute(context)))
                .unwrap_or_else(|_| Err(panicked(name)))
        }))
    }
}

fn panicked(name: &str) -> Error {
    Error::new(format!("the kernel {name} panicked"))
}

/// The attributes of a node.
struct Attributes<'a, 'attr>(&'a KernelContext<'attr>);

impl Attributes<'_, '_> {
    fn size(&self, name: &str) -> ort::Result<usize> {
        let value = self.0.get::<i64>(name).and_then(|v| usize::try_from(v).ok());
        value.ok_or_else(|| Error::new(format!("attribute {name} is missing")))
    }

    fn sizes(&self, name: &str) -> ort::Result<Vec<usize>> {
        let values = self.0.get::<Vec<i64>>(name);
        let sizes = values.and_then(|v| v.iter().map(|&v| usize::try_from(v).ok()).collect());
        sizes.ok_or_else(|| Error::new(format!("attribute {name} is missing")))
    }
}

/// Runs `f` for all indices below `count` on the session's threads.
fn parallel(context: &ComputeContext, count: usize, f: &(dyn Fn(usize) + Sync)) -> ort::Result<()> {
    let failed = AtomicBool::new(false);
    context.par_for(count, 0, |i| {
        if catch_unwind(AssertUnwindSafe(|| f(i))).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
    })?;
    if failed.into_inner() { Err(panicked("on a thread")) } else { Ok(()) }
}

/// Calls `kernel` with the threads of `context`; errs where these do.
fn on_threads(
    context: &ComputeContext,
    kernel: impl FnOnce(&dyn Fn(usize, &(dyn Fn(usize) + Sync))),
) -> ort::Result<()> {
    let outcome = std::cell::RefCell::new(Ok(()));
    kernel(&|count, f| {
        let result = parallel(context, count, f);
        if result.is_err() {
            *outcome.borrow_mut() = result;
        }
    });
    outcome.into_inner()
}

fn missing() -> Error {
    Error::new("an operand or result is missing")
}

fn clean_sum(attributes: &Attributes) -> ort::Result<Compute> {
    let [outer, length, inner] = attributes.sizes("blocks")?[..] else {
        return Err(Error::new("attribute blocks has not three sizes"));
    };
    let cancelled = attributes.0.get::<f32>("cancelled").ok_or_else(missing)?;
    let op = CleanSum { outer, length, inner, cancelled };
    let shape: Vec<i64> = attributes.sizes("shape")?.iter().map(|&d| d as i64).collect();
    Ok(Box::new(move |context| {
        let a = context.input(0)?.ok_or_else(missing)?;
        let a = a.try_extract_tensor::<f32>()?.1;
        let b = if context.num_inputs()? > 1 { context.input(1)? } else { None };
        let b = match &b {
            Some(b) => Some(b.try_extract_tensor::<f32>()?.1),
            None => None,
        };
        let mut sums = context.output(0, shape.clone())?.ok_or_else(missing)?;
        let sums = sums.try_extract_tensor_mut::<f32>()?.1;
        on_threads(context, |threads| op.sums(a, b, sums, threads))
    }))
}

fn conv(attributes: &Attributes) -> ort::Result<ConvWeightGrad> {
    Ok(ConvWeightGrad {
        samples: attributes.size("samples")?,
        groups: attributes.size("groups")?,
        channels: attributes.size("channels")?,
        outputs: attributes.size("outputs")?,
        input: attributes.sizes("input")?,
        output: attributes.sizes("output")?,
        kernel: attributes.sizes("kernel")?,
        strides: attributes.sizes("strides")?,
        dilations: attributes.sizes("dilations")?,
        pads: attributes.sizes("pads")?,
    })
}

fn conv_weight_grad(attributes: &Attributes) -> ort::Result<Compute> {
    let op = conv(attributes)?;
    Ok(Box::new(move |context| {
        let (x, z) =
            (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
        let (x, z) = (x.try_extract_tensor::<f32>()?.1, z.try_extract_tensor::<f32>()?.1);
        let lead = [op.samples, op.groups * op.outputs, op.channels];
        let shape: Vec<i64> = lead.iter().chain(&op.kernel).map(|&d| d as i64).collect();
        let mut dw = context.output(0, shape)?.ok_or_else(missing)?;
        let dw = dw.try_extract_tensor_mut::<f32>()?.1;
        on_threads(context, |threads| op.gradients(x, z, dw, threads))
    }))
}

fn conv_weight_signs(attributes: &Attributes) -> ort::Result<Compute> {
    let op = conv(attributes)?;
    Ok(Box::new(move |context| {
        let (x, z) =
            (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
        let (x, z) = (x.try_extract_tensor::<f32>()?.1, z.try_extract_tensor::<f32>()?.1);
        let shape = vec![op.samples as i64, op.signs_len() as i64];
        let mut signs = context.output(0, shape)?.ok_or_else(missing)?;
        let signs = signs.try_extract_tensor_mut::<i32>()?.1;
        on_threads(context, |threads| op.signs(x, z, signs, threads))
    }))
}

/// Operands are packed signs, or float32 rows that are packed here.
fn sign_gram(attributes: &Attributes) -> ort::Result<Compute> {
    let op = SignGram { groups: attributes.size("groups")?, size: attributes.size("size")? };
    Ok(Box::new(move |context| {
        let lanes = op.groups * op.size;
        let mut values = Vec::new();
        for i in 0..context.num_inputs()? {
            values.push(context.input(i)?.ok_or_else(missing)?);
        }
        let mut rows: Vec<Vec<i32>> = Vec::new();
        let mut packed: Vec<&[i32]> = Vec::new();
        for value in &values {
            if let Ok((_, signs)) = value.try_extract_tensor::<i32>() {
                packed.push(signs);
                continue;
            }
            let (_, floats) = value.try_extract_tensor::<f32>()?;
            let width = floats.len() / lanes;
            let mut signs = vec![0; lanes * packed_len(width)];
            for (row, signs) in floats.chunks(width).zip(signs.chunks_mut(packed_len(width))) {
                Signs::pack(row, signs);
            }
            rows.push(signs);
        }
        packed.extend(rows.iter().map(Vec::as_slice));
        let shape = vec![op.groups as i64, op.size as i64, op.size as i64];
        let mut products = context.output(0, shape)?.ok_or_else(missing)?;
        let products = products.try_extract_tensor_mut::<f64>()?.1;
        on_threads(context, |threads| op.products(&packed, products, threads))
    }))
}
