//! tract as an engine: pure Rust, always there, on the CPU.
//!
//! tract has no stable interface and reports some failures by panicking, so everything that
//! touches it is in this module and guarded.

mod broadcast;
mod numerics;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::prelude::{
    DatumType, Framework, InferenceModelExt, RunOptions, TValue, Tensor as TractTensor, TractError,
    TypedModel, TypedRunnableModel,
};

use super::compiled::{self, peak_bytes, specialised};
use super::{Compiled, Description, Device, Engine, EngineOptions, Session, guarded};
use crate::emit;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::tensor::{Tensor, dispatch};

pub(super) const NAME: &str = "tract";

/// The version pinned in `Cargo.toml`.
pub(super) const VERSION: &str = "0.23.9";

/// Optimising takes time that grows with the square of the graph's size (half a second at 1,000
/// nodes, ten at 5,000), and speeds up a run by no more than a factor of two.
const OPTIMISED_UP_TO: usize = 1000;

/// tract on the CPU.
pub(super) struct TractEngine {
    note: Option<String>,
}

/// Opens tract; `note` says why it was chosen, where the user did not.
pub(super) fn open(options: &EngineOptions, note: Option<String>) -> Result<TractEngine> {
    match options.device {
        Device::Auto | Device::Cpu => Ok(TractEngine { note }),
        device @ Device::Cuda(_) => Err(Error::Usage(format!(
            "the engine tract runs on the CPU only; `device` {device} needs `engine` ort"
        ))),
    }
}

fn error(message: impl Into<String>) -> Error {
    Error::Engine { engine: NAME, message: message.into() }
}

/// The whole chain of causes on one line: tract's outermost message is often only "Translating".
fn failed(error: TractError) -> Error {
    self::error(format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Engine for TractEngine {
    fn describe(&self) -> Description {
        Description {
            name: NAME.into(),
            version: VERSION.into(),
            device: Device::Cpu.to_string(),
            note: self.note.clone(),
        }
    }

    fn compile(&self, graph: &Graph) -> Result<Compiled> {
        let written = specialised(graph, numerics::decompose)?;
        Compiled::new(&written, &emit::Standard, peak_bytes(graph, &compiled::Standard))
    }

    fn load(&self, compiled: &Compiled) -> Result<Box<dyn Session>> {
        let Compiled { model, weights, .. } = compiled;
        guarded(NAME, || {
            let onnx = tract_onnx::onnx();
            let mut proto = onnx.proto_model_for_read(&mut model.as_slice()).map_err(failed)?;
            let weights: HashMap<&str, &Tensor> =
                weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            for initializer in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
                if let Some(tensor) = weights.get(initializer.name.as_str()) {
                    initializer.raw_data = tensor.to_le_bytes();
                    initializer.data_location = None;
                    initializer.external_data.clear();
                }
            }
            let typed = onnx
                .model_for_proto_model(&proto)
                .and_then(InferenceModelExt::into_typed)
                .map_err(failed)?;
            drop(proto);
            // tract's own order for saving memory takes three times the memory of the plain one on
            // graphs of gradients.
            let options = RunOptions { skip_order_opt_ram: true, ..RunOptions::default() };
            let plan = optimised(typed).into_runnable_with_options(&options).map_err(failed)?;
            Ok(Box::new(Loaded(plan)) as Box<dyn Session>)
        })
    }
}

/// The model rewritten for speed where that is quick, else as it is. A failure to optimise costs
/// the speed only.
fn optimised(model: TypedModel) -> TypedModel {
    if model.nodes().len() > OPTIMISED_UP_TO {
        return model;
    }
    let optimise = || {
        let mut model = model.clone();
        broadcast::keep_in_front_of_products(&mut model)?;
        model.into_optimized()
    };
    guarded(NAME, || optimise().map_err(failed)).unwrap_or_else(|reason| {
        tracing::debug!("running without optimisation: {reason}");
        model
    })
}

struct Loaded(Arc<TypedRunnableModel>);

impl Session for Loaded {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        guarded(NAME, || {
            let wanted = self.0.model().inputs.len();
            if inputs.len() != wanted {
                return Err(error(format!(
                    "the model takes {wanted} inputs, but {} were given",
                    inputs.len()
                )));
            }
            let inputs = inputs.iter().map(to_tract).collect::<Result<_>>()?;
            let outputs = self.0.run(inputs).map_err(failed)?;
            outputs.iter().map(|output| from_tract(output)).collect()
        })
    }
}

fn to_tract(tensor: &Tensor) -> Result<TValue> {
    dispatch!(tensor, a => {
        let data = a.as_slice().ok_or_else(|| error("an input is not in row-major order"))?;
        TractTensor::from_shape(a.shape(), data).map(TValue::from).map_err(failed)
    })
}

fn from_tract(tensor: &TractTensor) -> Result<Tensor> {
    let tensor = match tensor.datum_type() {
        // The integers of shape arithmetic have a type of their own.
        DatumType::TDim => tensor.cast_to_dt(DatumType::I64).map_err(failed)?,
        _ => Cow::Borrowed(tensor),
    };
    match tensor.datum_type() {
        DatumType::F32 => tensor.to_plain_array_view::<f32>().map(|a| a.to_owned().into()),
        DatumType::F64 => tensor.to_plain_array_view::<f64>().map(|a| a.to_owned().into()),
        DatumType::I32 => tensor.to_plain_array_view::<i32>().map(|a| a.to_owned().into()),
        DatumType::I64 => tensor.to_plain_array_view::<i64>().map(|a| a.to_owned().into()),
        DatumType::Bool => tensor.to_plain_array_view::<bool>().map(|a| a.to_owned().into()),
        other => return Err(error(format!("an output has the unsupported type {other:?}"))),
    }
    .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_pinned_one() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("tract-onnx = {{ version = \"={VERSION}\"")));
    }
}
