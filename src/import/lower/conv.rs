//! Convolutions and transposed convolutions.

use super::activation::named_activation;
use super::sample::{interpolate, zero_padded_taps};
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, MICROSOFT, rule};
use crate::ops::Window;
use crate::tensor::Tensor;

pub(super) const ENTRIES: &[Entry] = &[
    rule("Col2Im", 18, "ScatterAdd, Slice", col_to_image),
    rule("Conv", 7, "Conv, Add", conv),
    rule("ConvTranspose", 7, "the gradient of Conv, Add", conv_transpose),
    rule("DeformConv", 19, "Floor, Gather, Mul, Add, MatMul", deform_conv),
    rule("FusedConv", 1, "Conv, Add, its activation", fused_conv).of(MICROSOFT),
];

/// The maximum of kernel sizes, strides, dilations, pads and axis lengths, so that their products do
/// not overflow.
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

/// The window of a node over an operand of `shape`. `kernel` is used if the node has no attribute for
/// it. Automatic padding is resolved as for a convolution or pool.
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

/// Splits a number of pads in two. An odd one goes to the end or to the beginning.
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

/// A convolution, to which operand 3 is added, and an activation.
fn fused_conv(c: &mut Call) -> Result<Value> {
    let mut y = conv(c)?;
    if c.has(3) {
        let more = c.operand(3)?;
        y = c.add(y, more)?;
    }
    let parameters = c.floats("activation_params")?.unwrap_or_default();
    named_activation(c, y, &parameters)
}

/// Col2Im is refused if the patches of one image have more elements than this.
const MAX_PLACES: usize = 1 << 26;

/// Col2Im: assembles images from patches `[N, C·kernel, positions]`, adding them where they overlap.
fn col_to_image(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let image = c.known_ints(1, "image shape")?;
    let image = c.sizes(&image, "size")?;
    let block = c.known_ints(2, "block shape")?;
    let block = c.sizes(&block, "size")?;
    let rank = image.len();
    let elements: usize = c.bounded(block.clone())?.iter().product();
    let (&[batch, rows, columns], true) = (&shape[..], block.len() == rank && elements > 0) else {
        return Err(c.invalid(format_args!("blocks {block:?} of {image:?} in {shape:?}")));
    };
    let (strides, dilations) = (per_axis(c, "strides", rank)?, per_axis(c, "dilations", rank)?);
    let pads = match c.ints("pads")? {
        Some(pads) => c.sizes(&pads, "pads")?,
        None => vec![0; 2 * rank],
    };
    if pads.len() != 2 * rank || rows % elements != 0 {
        return Err(c.invalid(format_args!("pads {pads:?}, {rows} rows for blocks {block:?}")));
    }
    let pad = |i: usize| pads[i].saturating_add(image[i]).saturating_add(pads[rank + i]);
    let padded: Vec<usize> = (0..rank).map(pad).collect();
    let mut counts = Vec::with_capacity(rank);
    for i in 0..rank {
        let extent = block[i].saturating_sub(1).saturating_mul(dilations[i]).saturating_add(1);
        match padded[i].checked_sub(extent) {
            Some(room) => counts.push(room / strides[i] + 1),
            None => return Err(c.invalid(format_args!("blocks {block:?} exceed {image:?}"))),
        }
    }
    let total = c.bounded([&[batch, rows / elements], &padded[..]].concat())?;
    if counts.iter().fold(1usize, |n, &d| n.saturating_mul(d)) != columns {
        return Err(c.invalid(format_args!("{columns} blocks, not {counts:?}")));
    }
    if elements.saturating_mul(columns) > MAX_PLACES {
        return Err(c.unsupported(format!("{columns} blocks of {elements} elements are too many")));
    }
    // The flat index in the padded image of each element of each patch.
    let (of_block, of_place) = (super::gather::strides(&block), super::gather::strides(&counts));
    let of_image = super::gather::strides(&padded);
    let places = (0..elements * columns).map(|i| {
        let (k, p) = (i / columns, i % columns);
        let along = |a: usize| {
            let (k, p) = (k / of_block[a] % block[a], p / of_place[a] % counts[a]);
            (p * strides[a] + k * dilations[a]) * of_image[a]
        };
        (0..rank).map(along).sum::<usize>() as i64
    });
    let places = c.constant(Tensor::index(places));
    let flat = c.reshape(x, &[batch, rows / elements, elements * columns])?;
    let y = c.scatter_add(places, flat, 2, padded.iter().product())?;
    let y = c.reshape(y, &total)?;
    let from = [&[0, 0], &pads[..rank]].concat();
    let to: Vec<usize> =
        (0..rank + 2).map(|i| if i < 2 { total[i] } else { from[i] + image[i - 2] }).collect();
    c.slice(y, &from, &to, &vec![1; rank + 2])
}

/// A deformable convolution: each kernel element reads the input at its position plus an offset, by
/// linear interpolation.
fn deform_conv(c: &mut Call) -> Result<Value> {
    let (x, w, offsets) = (c.operand(0)?, c.weight(1)?, c.operand(2)?);
    let (shape, filter) = (c.shape(x), c.shape(w));
    let groups = groups(c)?;
    let parts = usize::try_from(c.int("offset_group", 1)?).unwrap_or(0);
    let (&[batch, channels, height, width], &[out, _, kh, kw]) = (&shape[..], &filter[..]) else {
        return Err(c.unsupported("only two spatial axes are supported"));
    };
    let g = geometry(c, &shape, Some(&[kh, kw]))?;
    let count = |axis: usize, size: usize| {
        let padded = g.before[axis].saturating_add(size).saturating_add(g.after[axis]);
        padded.checked_sub(g.extent(axis)).map(|room| room / g.strides[axis] + 1)
    };
    let (Some(oh), Some(ow)) = (count(0, height), count(1, width)) else {
        return Err(c.invalid("the kernel is larger than its operand"));
    };
    if parts == 0
        || parts > channels
        || channels % parts != 0
        || channels % groups != 0
        || out % groups != 0
    {
        return Err(c.invalid(format_args!("{channels} channels in {parts} and {groups} groups")));
    }
    let taps = kh * kw;
    let wanted = [batch, parts * taps * 2, oh, ow];
    if c.shape(offsets) != wanted {
        let have = c.shape(offsets);
        return Err(c.invalid(format_args!("offsets {have:?}, not {wanted:?}")));
    }
    // [batch, part, tap, axis, row, column]
    let offsets = c.reshape(offsets, &[batch, parts, taps, 2, oh, ow])?;
    let grid = [batch, parts, taps, oh, ow];
    let mut axes = Vec::new();
    for (axis, size) in [(0, height), (1, width)] {
        let base = (0..taps * oh * ow).map(|i| {
            let (tap, row, column) = (i / (oh * ow), i / ow % oh, i % ow);
            let (k, p) = if axis == 0 { (tap / kw, row) } else { (tap % kw, column) };
            (p * g.strides[axis] + k * g.dilations[axis]) as f32 - g.before[axis] as f32
        });
        let base = c.constant(Tensor::f32(&[1, 1, taps, oh, ow], base.collect())?);
        let moved = c.slice_axis(offsets, 3, axis, axis + 1, 1)?;
        let moved = c.reshape(moved, &grid)?;
        let at = c.add(base, moved)?;
        axes.push(zero_padded_taps(c, at, size)?);
    }
    // Rows of pixels by image and part.
    let width_of_part = channels / parts;
    let split = c.reshape(x, &[batch, parts, width_of_part, height, width])?;
    let rows = c.transpose(split, &[0, 1, 3, 4, 2])?;
    let rows = c.reshape(rows, &[batch * parts * height * width, width_of_part])?;
    let starts = (0..batch * parts).map(|i| (i * height * width) as i64);
    let starts = c.constant(Tensor::index(starts).reshape(&[batch, parts, 1, 1, 1])?);
    let mut read = interpolate(c, rows, starts, &axes, &[width, 1])?;
    if c.has(4) {
        let mask = c.operand(4)?;
        let mask = c.reshape(mask, &[batch, parts, taps, oh, ow, 1])?;
        read = c.mul(read, mask)?;
    }
    // [batch, group, channel·tap, place] times [group, out, channel·tap].
    let columns = c.transpose(read, &[0, 1, 5, 2, 3, 4])?;
    let inner = channels / groups * taps;
    let columns = c.reshape(columns, &[batch, groups, inner, oh * ow])?;
    let matrix = c.reshape(w, &[1, groups, out / groups, inner])?;
    let y = c.matmul(matrix, columns)?;
    let y = c.reshape(y, &[batch, out, oh, ow])?;
    let Some(bias) = c.optional_weight(3)? else { return Ok(y) };
    let bias = c.reshape(bias, &[1, out, 1, 1])?;
    c.add(y, bias)
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
    // Zeros at the end, where the wanted output is larger than the kernel reaches.
    let mut beyond = vec![0; rank + 2];
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
            beyond[2 + axis] = target.saturating_sub(full);
            (g.before[axis], g.after[axis]) = halves(total, auto_pad == "SAME_UPPER");
        }
        let Some(size) = full.checked_sub(g.before[axis] + g.after[axis]) else {
            return Err(c.invalid(format_args!("pads crop spatial axis {axis} to nothing")));
        };
        sizes.push(size);
    }
    let total = [&shape[..1], &[filter[1].saturating_mul(groups)], &sizes].concat();
    c.bounded(total.iter().zip(&beyond).map(|(d, more)| d.saturating_add(*more)).collect())?;
    let y = c.conv_input_grad(x, w, &window(&g, groups), &sizes)?;
    let y = c.pad(y, &vec![0; rank + 2], &beyond, 0.0)?;
    with_bias(c, y)
}
