//! The blocks that networks of several spaces are made of.

use super::network::{Features, Network, Window};

/// ReLU, convolution, batch norm.
pub(super) fn relu_conv_norm(
    n: &mut Network,
    name: &str,
    x: &Features,
    channels: usize,
    window: Window,
) -> Features {
    let x = n.relu(&format!("{name}.relu"), x);
    conv_norm(n, name, &x, channels, window)
}

/// Convolution, batch norm.
pub(super) fn conv_norm(
    n: &mut Network,
    name: &str,
    x: &Features,
    channels: usize,
    window: Window,
) -> Features {
    let x = n.conv(&format!("{name}.conv"), x, channels, window);
    n.norm(&format!("{name}.norm"), &x)
}

/// Convolution, batch norm, ReLU.
pub(super) fn conv_norm_relu(
    n: &mut Network,
    name: &str,
    x: &Features,
    channels: usize,
    window: Window,
) -> Features {
    let x = conv_norm(n, name, x, channels, window);
    n.relu(&format!("{name}.relu"), &x)
}

/// Half the rows and columns by two convolutions of 1×1, one of which sees what the other skips:
/// ReLU, both side by side, batch norm.
pub(super) fn factorized_reduce(
    n: &mut Network,
    name: &str,
    x: &Features,
    channels: usize,
) -> Features {
    let x = n.relu(&format!("{name}.relu"), x);
    let half = channels / 2;
    let even = n.conv(&format!("{name}.conv1"), &x, half, Window::square(1, 2));
    let shifted = n.shift(&format!("{name}.shift"), &x);
    let odd = n.conv(&format!("{name}.conv2"), &shifted, channels - half, Window::square(1, 2));
    let both = n.concat(&format!("{name}.both"), &[even, odd]);
    n.norm(&format!("{name}.norm"), &both)
}

/// Two ReLU-Conv-BN of 3×3, the first of which has the stride, and what `shortcut` makes of the input
/// added to them.
pub(super) fn residual(
    n: &mut Network,
    name: &str,
    x: &Features,
    channels: usize,
    stride: usize,
    shortcut: impl FnOnce(&mut Network, &Features) -> Features,
) -> Features {
    let y = relu_conv_norm(n, &format!("{name}.a"), x, channels, Window::square(3, stride));
    let y = relu_conv_norm(n, &format!("{name}.b"), &y, channels, Window::square(3, 1));
    let x = shortcut(n, x);
    n.add(&format!("{name}.sum"), &y, &x)
}
