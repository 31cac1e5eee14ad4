//! placeholder
pub struct Norm;
pub struct NormGrads;
