//! The gradient in the kernel.
pub(in crate::kernel) struct WeightGrad;
