//! Convolution and its two adjoints, over any number of spatial axes.
//!
//! With `x` `[N, C, S…]`, `w` `[M, C/g, K…]` and a window (strides `s`, dilations `d`, paddings
//! `p`), convolution is the result of the trilinear form
//!
//! `T(x, w, z) = Σ x[n, c, o·s + k·d − p] · w[m, c, k] · z[n, m, o]`
//!
//! (`c` in the group of `m`) that is linear in `z`: `∂T/∂z`. [`ConvInputGrad`] is `∂T/∂x` and
//! [`ConvWeightGrad`] is `∂T/∂w`. Each of the three is differentiated by the other two.

mod form;
mod forward;
mod input_grad;
mod lanes;
#[cfg(test)]
mod tests;
mod weight_grad;
mod window;

pub use self::forward::Conv;
pub use self::input_grad::{AsConv, ConvInputGrad};
pub use self::weight_grad::ConvWeightGrad;
pub use self::window::Window;
