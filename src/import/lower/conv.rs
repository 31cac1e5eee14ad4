//! Convolutions and their transposes.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::ops::Window;

pub(super) const ENTRIES: &[Entry] = &[
    rule("Conv", 7, "Conv, Add", conv),
    rule("ConvTranspose", 7, "the gradient of Conv, Add", conv_transpose),
];

/// No kernel, stride, dilation, pad or size of an axis is larger, so that their products fit.
const MAX_SPATIAL: usize = 1 << 30;

/// Strides, dilations and explicit pads of a window over spatial axes.
pub(super) struct Geometry {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub before: Vec<usize>,
    pub after: Vec<usize>,
}

impl Geometry {
    /// The extent of the dilated kernel along a spatial axis.
    pub fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }
}

/// The attribute `name` with one positive number per spatial axis.
fn per_axis(c: &Call, name: &str, rank: usize) -> Result<Vec<usize>> {
    let Some(values) = c.ints(name)? else { return Ok(vec![1; rank]) };
    let values = c.sizes(&values, name)?;
    if values.len() != rank || values.contains(&0) {
        return Err(c.invalid(format_args!("{name} {values:?} for {rank} spatial axes")));
    }
    Ok(values)
}

/// The window of a node over an operand of `shape`, with `kernel` where the node has none of its
/// own. Automatic padding is resolved for a window that moves over its input.
pub(super) fn geometry(c: &Call, shape: &[usize], kernel: Option<&[usize]>) -> Result<Geometry> {
    let Some(spatial) = shape.get(2..) else {
        return Err(c.invalid(format_args!("{shape:?} has no batch and channel axes")));
    };
    let rank = spatial.len();
    let given = c.ints("kernel_shape")?.map(|k| c.sizes(&k, "kernel_shape")).transpose()?;
    let kernel = match (given, kernel) {
        (Some(given), Some(kernel)) if given != kernel => {
            return Err(c.invalid(format_args!("kernel_shape {given:?} for a kernel {kernel:?}")));
        }
        (_, Some(kernel)) => kernel.to_vec(),
        (Some(given), None) => given,
        (None, None) => return Err(c.invalid("its kernel_shape is missing")),
    };
    if kernel.len() != rank || kernel.contains(&0) {
        return Err(c.invalid(format_args!("a kernel {kernel:?} over {rank} spatial axes")));
    }
    let (strides, dilations) = (per_axis(c, "strides", rank)?, per_axis(c, "dilations", rank)?);
    let mut geometry =
        Geometry { kernel, strides, dilations, before: vec![0; rank], after: vec![0; rank] };
    match c.text("auto_pad", "NOTSET")? {
        "NOTSET" | "" => {
            if let Some(pads) = c.ints("pads")? {
                let Ok(pads) = c.sizes(&pads, "pads") else {
                    return Err(c.unsupported("negative pads; crop by Slice before it"));
                };
                if pads.len() != 2 * rank {
                    return Err(c.invalid(format_args!("pads {pads:?} for {rank} spatial axes")));
                }
                let (before, after) = pads.split_at(rank);
                (geometry.before, geometry.after) = (before.to_vec(), after.to_vec());
            }
        }
        "VALID" => {}
        mode @ ("SAME_UPPER" | "SAME_LOWER") => {
            for (axis, &size) in spatial.iter().enumerate() {
                let stride = geometry.strides[axis];
                let reach = (size.div_ceil(stride).saturating_sub(1)) * stride;
                let total = (reach + geometry.extent(axis)).saturating_sub(size);
                (geometry.before[axis], geometry.after[axis]) = halves(total, mode == "SAME_UPPER");
            }
        }
        other => return Err(c.invalid(format_args!("auto_pad '{other}' is not defined"))),
    }
    let all = [&geometry.kernel, &geometry.strides, &geometry.dilations, &geometry.before];
    let all = all.into_iter().chain([&geometry.after]).flatten();
    if all.chain(spatial).any(|&n| n > MAX_SPATIAL) {
        return Err(c.invalid("its kernel, strides, dilations or pads are too large"));
    }
    Ok(geometry)
}

/// A number of pads split in two; the odd one goes to the end or to the beginning.
fn halves(total: usize, odd_at_end: bool) -> (usize, usize) {
    let small = total / 2;
    if odd_at_end { (small, total - small) } else { (total - small, small) }
}

fn groups(c: &Call) -> Result<usize> {
    match usize::try_from(c.int("group", 1)?) {
        Ok(groups) if groups > 0 => Ok(groups),
        _ => Err(c.invalid("the number of groups must be positive")),
    }
}

fn window(g: &Geometry, groups: usize) -> Window {
    Window {
        strides: g.strides.clone(),
        dilations: g.dilations.clone(),
        pads_begin: g.before.clone(),
        pads_end: g.after.clone(),
        groups,
    }
}

/// Adds the optional bias in operand 2, one number per channel.
fn with_bias(c: &mut Call, y: Value) -> Result<Value> {
    let Some(bias) = c.optional_weight(2)? else { return Ok(y) };
    let channels = c.fact(bias).len();
    let mut row = vec![1; c.rank(y)];
    row[1] = channels;
    let bias = c.reshape(bias, &row)?;
    c.add(y, bias)
}

fn conv(c: &mut Call) -> Result<Value> {
    let (x, w) = (c.operand(0)?, c.weight(1)?);
    let (shape, kernel) = (c.shape(x), c.shape(w));
    let groups = groups(c)?;
    let kernel = kernel.get(2..).unwrap_or_default().to_vec();
    let geometry = geometry(c, &shape, Some(&kernel))?;
    let y = c.conv(x, w, window(&geometry, groups))?;
    with_bias(c, y)
}

fn conv_transpose(c: &mut Call) -> Result<Value> {
    let (x, w) = (c.operand(0)?, c.weight(1)?);
    let (shape, filter) = (c.shape(x), c.shape(w));
    let groups = groups(c)?;
    let [_, _, kernel @ ..] = &filter[..] else {
        return Err(c.invalid(format_args!("weights of shape {filter:?}")));
    };
    let mut g = geometry(c, &shape, Some(kernel))?;
    let rank = kernel.len();
    let extra = match c.ints("output_padding")? {
        Some(extra) => c.sizes(&extra, "output_padding")?,
        None => vec![0; rank],
    };
    let wanted = match c.ints("output_shape")? {
        // Some exporters list the batch and channel axes too.
        Some(sizes) => Some(c.sizes(&sizes[sizes.len().saturating_sub(rank)..], "output_shape")?),
        None => None,
    };
    let auto_pad = c.text("auto_pad", "NOTSET")?;
    let same = auto_pad.starts_with("SAME");
    if extra.len() != rank || wanted.as_ref().is_some_and(|w| w.len() != rank) {
        return Err(c.invalid("output_padding or output_shape do not fit the spatial axes"));
    }
    let mut sizes = Vec::with_capacity(rank);
    for axis in 0..rank {
        if extra[axis].max(wanted.as_ref().map_or(0, |w| w[axis])) > MAX_SPATIAL {
            return Err(c.invalid("its output_padding or output_shape is too large"));
        }
        let full = (shape[2 + axis].max(1) - 1) * g.strides[axis] + extra[axis] + g.extent(axis);
        let target = match &wanted {
            Some(wanted) => Some(wanted[axis]),
            None if same => Some(shape[2 + axis] * g.strides[axis]),
            None => None,
        };
        if let Some(target) = target {
            let total = full.saturating_sub(target);
            (g.before[axis], g.after[axis]) = halves(total, auto_pad == "SAME_UPPER");
        }
        let Some(size) = full.checked_sub(g.before[axis] + g.after[axis]) else {
            return Err(c.invalid(format_args!("pads crop spatial axis {axis} to nothing")));
        };
        sizes.push(size);
    }
    let total = [&shape[..1], &[filter[1].saturating_mul(groups)], &sizes].concat();
    c.bounded(total)?;
    let y = c.conv_input_grad(x, w, &window(&g, groups), &sizes)?;
    with_bias(c, y)
}
