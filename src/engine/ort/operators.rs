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

use crate::emit::ModelWriter;
use crate::kernel::{
    Axis, Blocks, Conv3x3, ConvWeightGrad, Elementwise, FusedMap, MapOutput, Operand, OutputLayout,
    Prepared, SignGram, Source, Step, packed_rows,
};
use crate::ops::Attr;

/// The domain of the operators.
pub(super) const DOMAIN: &str = "gradalign";

/// Adds a node of one of the operators, with one output, and returns that output's name.
pub(super) fn kernel(
    w: &mut ModelWriter,
    op: &str,
    inputs: &[&str],
    attrs: &[(&str, Attr)],
) -> String {
    w.nodes_of(Some(DOMAIN), op, inputs, 1, attrs).swap_remove(0)
}

/// All operators. A domain is made for each session: it cannot go from thread to thread.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(Kernel { name: "Conv3x3", output: Float32, make: conv_3x3 })?
        .add(Kernel { name: "ConvWeightGrad", output: Float32, make: conv_weight_grad })?
        .add(Kernel { name: "ConvWeightGradSigns", output: Int32, make: conv_weight_signs })?
        .add(Kernel { name: "Map", output: Float32, make: map })?
        .add(Kernel { name: "SignGram", output: Float64, make: sign_gram })
}

/// What an operator does on a run.
type Compute = Box<dyn Fn(&ComputeContext) -> ort::Result<()> + Send>;

/// An operator with any number of operands and results.
struct Kernel {
    name: &'static str,
    output: TensorElementType,
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
        [OperatorOutput::variadic(1).homogenous(self.output)]
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

    /// The list `name`, which is empty where it is missing: an empty list has no type in a node.
    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.get::<Vec<f32>>(name).unwrap_or_default()
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

/// The next `n` of a list.
fn take<'a>(list: &mut &'a [usize], n: usize) -> ort::Result<&'a [usize]> {
    let (taken, rest) = list.split_at_checked(n).ok_or_else(missing)?;
    *list = rest;
    Ok(taken)
}

/// Lists one after the other, each with its length before it, `width` numbers an element.
fn lists(mut flat: &[usize], width: usize) -> ort::Result<Vec<&[usize]>> {
    let mut lists = Vec::new();
    while !flat.is_empty() {
        let length = take(&mut flat, 1)?[0];
        lists.push(take(&mut flat, length * width)?);
    }
    Ok(lists)
}

fn map(attributes: &Attributes) -> ort::Result<Compute> {
    let source = |number: usize| match number % 4 {
        0 => Source::Operand(number / 4),
        1 => Source::Constant(number / 4),
        2 => Source::Step(number / 4),
        _ => Source::Sum(number / 4),
    };
    let axis = |pair: &[usize]| Axis { length: pair[0], stride: pair[1] };
    let views = attributes.sizes("views")?;
    let views = lists(&views, 2)?.iter().map(|view| view.chunks(2).map(axis).collect()).collect();
    let mut steps = Vec::new();
    for step in attributes.sizes("steps")?.as_chunks::<4>().0 {
        let op = *Elementwise::ALL.get(step[0]).ok_or_else(missing)?;
        steps.push(Step { op, arguments: [1, 2, 3].map(|i| source(step[i])) });
    }
    let factors = attributes.floats("factors");
    let mut factors = factors.iter();
    let mut outputs = Vec::new();
    for &[from, outer, length, inner] in attributes.sizes("results")?.as_chunks::<4>().0 {
        let layout = match (length, inner) {
            (0, _) => OutputLayout::Whole,
            (_, 0) => OutputLayout::Row { length },
            _ => {
                let &scale = factors.next().ok_or_else(missing)?;
                OutputLayout::Sum { blocks: Blocks { outer, length, inner }, scale }
            }
        };
        outputs.push(MapOutput { source: source(from), layout });
    }
    let constants = attributes.floats("constants");
    let truths = attributes.sizes("truths").unwrap_or_default();
    let map = FusedMap { len: attributes.size("len")?, views, truths, constants, steps, outputs };
    let map = Prepared::from(map);
    let shapes = attributes.sizes("shapes")?;
    let shapes: Vec<Vec<i64>> =
        lists(&shapes, 1)?.iter().map(|shape| shape.iter().map(|&d| d as i64).collect()).collect();
    Ok(Box::new(move |context| {
        let mut values = Vec::new();
        for i in 0..map.operands() {
            values.push(context.input(i)?.ok_or_else(missing)?);
        }
        let mut operands = Vec::new();
        for value in &values {
            operands.push(match value.try_extract_tensor::<f32>() {
                Ok((_, floats)) => Operand::Floats(floats),
                Err(_) => Operand::Bools(value.try_extract_tensor::<bool>()?.1),
            });
        }
        let mut results = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            results.push(context.output(i, shape.clone())?.ok_or_else(missing)?);
        }
        let mut slices = Vec::new();
        for result in &mut results {
            slices.push(result.try_extract_tensor_mut::<f32>()?.1);
        }
        on_threads(context, |threads| map.run(&operands, &mut slices, threads))
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

/// Two numbers.
fn pair(attributes: &Attributes, name: &str) -> ort::Result<[usize; 2]> {
    attributes.sizes(name)?.try_into().map_err(|_| Error::new(format!("{name} is not a pair")))
}

fn conv_3x3(attributes: &Attributes) -> ort::Result<Compute> {
    let op = Conv3x3 {
        samples: attributes.size("samples")?,
        channels: attributes.size("channels")?,
        outputs: attributes.size("outputs")?,
        input: pair(attributes, "input")?,
        output: pair(attributes, "output")?,
        pads: pair(attributes, "pads")?,
    };
    let shape: Vec<i64> =
        [op.samples, op.outputs, op.output[0], op.output[1]].map(|d| d as i64).to_vec();
    Ok(Box::new(move |context| {
        let mut y = context.output(0, shape.clone())?.ok_or_else(missing)?;
        let y = y.try_extract_tensor_mut::<f32>()?.1;
        with_operands(context, |x, w| on_threads(context, |threads| op.compute(x, w, y, threads)))
    }))
}

/// Calls `f` with two operands.
fn with_operands<R>(
    context: &ComputeContext,
    f: impl FnOnce(&[f32], &[f32]) -> ort::Result<R>,
) -> ort::Result<R> {
    let (x, z) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
    f(x.try_extract_tensor::<f32>()?.1, z.try_extract_tensor::<f32>()?.1)
}

fn conv_weight_grad(attributes: &Attributes) -> ort::Result<Compute> {
    let op = conv(attributes)?;
    let lead = [op.samples, op.groups * op.outputs, op.channels];
    let shape: Vec<i64> = lead.iter().chain(&op.kernel).map(|&d| d as i64).collect();
    Ok(Box::new(move |context| {
        let mut dw = context.output(0, shape.clone())?.ok_or_else(missing)?;
        let dw = dw.try_extract_tensor_mut::<f32>()?.1;
        with_operands(context, |x, z| {
            on_threads(context, |threads| op.gradients(x, z, dw, threads))
        })
    }))
}

fn conv_weight_signs(attributes: &Attributes) -> ort::Result<Compute> {
    let op = conv(attributes)?;
    let shape = vec![op.samples as i64, op.signs_len() as i64];
    Ok(Box::new(move |context| {
        let mut signs = context.output(0, shape.clone())?.ok_or_else(missing)?;
        let signs = signs.try_extract_tensor_mut::<i32>()?.1;
        with_operands(context, |x, z| on_threads(context, |threads| op.signs(x, z, signs, threads)))
    }))
}

/// Operands are packed signs, or float32 rows that are packed here.
fn sign_gram(attributes: &Attributes) -> ort::Result<Compute> {
    let op = SignGram { groups: attributes.size("groups")?, size: attributes.size("size")? };
    let shape = vec![op.groups as i64, op.size as i64, op.size as i64];
    Ok(Box::new(move |context| {
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
            on_threads(context, |threads| {
                rows.push(packed_rows(floats, op.groups * op.size, threads));
            })?;
        }
        packed.extend(rows.iter().map(Vec::as_slice));
        let mut products = context.output(0, shape.clone())?.ok_or_else(missing)?;
        let products = products.try_extract_tensor_mut::<f64>()?.1;
        on_threads(context, |threads| op.products(&packed, products, threads))
    }))
}
