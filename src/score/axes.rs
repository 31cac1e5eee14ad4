//! What the data says of where the samples lie in a model's inputs.

use crate::data::{Dataset, agrees, fits};
use crate::error::Result;
use crate::import::{self, ImportOptions};
use crate::onnx::Model;

/// Adds to `options` the batch axes that the data shows: of inputs that the samples do not fit as it
/// is guessed, or of which it is not clear, and that they do fit with exactly one other batch axis, or
/// none. Returns what the user should know of that.
///
/// # Errors
/// When `options` do not fit the model.
pub(super) fn from_data(
    model: &Model,
    dataset: &Dataset,
    options: &mut ImportOptions,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let declared = import::declared_inputs(model);
    let only = declared.len() == 1;
    for input in &declared {
        let name = &input.name;
        let given = options.batch_axes.contains_key(name) || options.fixed.contains_key(name);
        let Some(shape) = dataset.sample_shape(input, only).filter(|_| !given) else { continue };
        let without = |axis: Option<usize>| -> Vec<Option<usize>> {
            let kept = input.dims.iter().enumerate().filter(|(i, _)| Some(*i) != axis);
            kept.map(|(_, &dim)| dim).collect()
        };
        let guessed = import::batch_axis(model, options, name)?;
        if guessed.is_some_and(|axis| fits(shape, &without(axis))) {
            continue;
        }
        let axes = (0..input.dims.len()).map(Some).chain([None]);
        let fitting: Vec<_> = axes.filter(|&axis| agrees(shape, &without(axis))).collect();
        if let [axis] = fitting[..] {
            options.batch_axes.insert(name.clone(), axis);
            let where_it_is = match axis {
                Some(axis) => format!("axis {axis} is taken for its batch"),
                None => "it is taken to have no batch axis".into(),
            };
            notes.push(format!("by the shape of the samples for input '{name}', {where_it_is}"));
        }
    }
    Ok(notes)
}
