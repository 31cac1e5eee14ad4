//! Keeps tract's optimiser from leaving out broadcasts in front of products.
//!
//! It drops a broadcast that only a matrix product reads, even along the axis that is summed over. Then the
//! product sums one term, or the run panics.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::MultiBroadcastTo;
use tract_onnx::tract_core::ops::cnn::{Conv, Deconv};
use tract_onnx::tract_core::ops::einsum::EinSum;

/// A broadcast that the optimiser does not know as one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept(MultiBroadcastTo);

impl Op for Kept {
    fn name(&self) -> StaticName {
        "KeptBroadcast".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Kept {
    op_out_of_plan!();

    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.eval(context, inputs)
    }
}

impl TypedOp for Kept {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }
}

/// Hides the broadcasts of `model` that the optimiser could bring in front of a product.
pub(super) fn keep_in_front_of_products(model: &mut TypedModel) -> TractResult<()> {
    let order = model.eval_order()?;
    let mut is_multiplied = vec![false; model.nodes().len()];
    for &id in order.iter().rev() {
        let mut readers = model.node(id).outputs.iter().flat_map(|output| &output.successors);
        is_multiplied[id] = readers.any(|reader| {
            let reader = model.node(reader.node);
            is_product(reader) || is_multiplied[reader.id] && has_one_operand(model, reader)
        });
    }
    for node in model.nodes_mut() {
        if is_multiplied[node.id]
            && let Some(broadcast) = node.op_as::<MultiBroadcastTo>()
        {
            node.op = Box::new(Kept(broadcast.clone()));
        }
    }
    Ok(())
}

/// Whether it is a product, or tract may make it one.
fn is_product(node: &TypedNode) -> bool {
    node.op_is::<EinSum>() || node.op_is::<Conv>() || node.op_is::<Deconv>()
}

/// Whether at most one operand is not constant: the optimiser may move a broadcast behind such a node.
fn has_one_operand(model: &TypedModel, node: &TypedNode) -> bool {
    let is_constant =
        |input: &OutletId| model.outlet_fact(*input).is_ok_and(|fact| fact.konst.is_some());
    node.inputs.iter().filter(|input| !is_constant(input)).count() <= 1
}
