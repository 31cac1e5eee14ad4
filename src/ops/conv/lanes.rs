//! Convolutions of many lanes at once: lanes as samples, as channels, or as groups.

use super::Window;
use crate::error::Result;
use crate::ir::Value;
use crate::ops::Builder;

/// `[n, N, …]` as `[n·N, …]`, with `N`.
pub(super) fn fold(b: &mut Builder, x: Value) -> Result<(Value, usize)> {
    let shape = b.shape(x);
    let folded = [&[shape[0] * shape[1]], &shape[2..]].concat();
    Ok((b.reshape(x, &folded)?, shape[1]))
}

/// `[n·N, …]` as `[n, N, …]`.
pub(super) fn unfold(b: &mut Builder, y: Value, n: usize, samples: usize) -> Result<Value> {
    let shape = b.shape(y);
    b.reshape(y, &[&[n, samples], &shape[1..]].concat())
}

/// `[n, N, C, S…]` as `[N, n·C, S…]`, with `N`.
pub(super) fn lanes_to_channels(b: &mut Builder, x: Value) -> Result<(Value, usize)> {
    let shape = b.shape(x);
    let mut perm: Vec<usize> = (0..shape.len()).collect();
    perm.swap(0, 1);
    let turned = b.transpose(x, &perm)?;
    let flat = [&[shape[1], shape[0] * shape[2]], &shape[3..]].concat();
    Ok((b.reshape(turned, &flat)?, shape[1]))
}

/// `[N, n·M, O…]` as `[n, N, M, O…]`.
pub(super) fn channels_to_lanes(
    b: &mut Builder,
    y: Value,
    n: usize,
    samples: usize,
) -> Result<Value> {
    let shape = b.shape(y);
    let split = [&[samples, n, shape[1] / n], &shape[2..]].concat();
    let y = b.reshape(y, &split)?;
    let mut perm: Vec<usize> = (0..split.len()).collect();
    perm.swap(0, 1);
    b.transpose(y, &perm)
}

/// `[n, M, C/g, K…]` as `[n·M, C/g, K…]`.
pub(super) fn lanes_to_outputs(b: &mut Builder, w: Value) -> Result<Value> {
    Ok(fold(b, w)?.0)
}

/// A convolution of each lane of `x` `[n, N, C, S…]` with its own kernel `w` `[n, M, C/g, K…]`:
/// one convolution in which every lane is a group of its own.
pub(super) fn conv_by_lane(b: &mut Builder, x: Value, w: Value, window: &Window) -> Result<Value> {
    let n = b.shape(x)[0];
    let (x, samples) = lanes_to_channels(b, x)?;
    let w = lanes_to_outputs(b, w)?;
    let y = b.conv(x, w, window.with_groups(window.groups * n))?;
    channels_to_lanes(b, y, n, samples)
}
