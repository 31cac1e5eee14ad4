//! One direction of a recurrent layer: its states from step to step.

use ndarray::Axis;

use super::Kind;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::lower::activation::Activation;
use crate::import::lower::elementwise::clamp;
use crate::ops::{Binary, Op, Primitive, Unary};
use crate::tensor::{DType, Tensor};

/// Sizes of a recurrent layer.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub steps: usize,
    pub batch: usize,
    pub hidden: usize,
}

/// One direction of a layer.
pub(super) struct Direction {
    pub kind: Kind,
    pub sizes: Sizes,
    /// The index of the direction, and whether it runs backwards.
    pub index: usize,
    pub reverse: bool,
    /// The recurrence weights `[gates·hidden, hidden]`.
    pub r: Value,
    /// The bias of the products with the states, if it cannot be added to that of the inputs.
    pub state_bias: Option<Value>,
    pub peepholes: Option<[Value; 3]>,
    pub functions: Vec<Activation>,
    pub clip: Option<f64>,
}

/// The hidden and cell state at one step.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub hidden: Value,
    pub cell: Option<Value>,
}

/// Whether a tensor is constant along an axis.
fn same_along(tensor: &Tensor, axis: usize) -> bool {
    let values = tensor.to_f64();
    let mut rows = values.axis_iter(Axis(axis));
    rows.next().is_some_and(|first| rows.all(|row| row == first))
}

/// Row `i` along the first axis of `x`, without that axis.
pub(super) fn row(c: &mut Call, x: Value, i: usize) -> Result<Value> {
    let shape = c.shape(x);
    let row = c.slice_axis(x, 0, i, i + 1, 1)?;
    c.reshape(row, &shape[1..])
}

/// `1 − gate`. For a sigmoid it is computed without cancellation where the gate is close to 1.
fn one_minus(c: &mut Call, gate: Value) -> Result<Value> {
    let node = c.graph().node(gate).clone();
    match (&node.op, node.inputs.as_slice()) {
        (Op::Apply(Primitive::Unary(Unary::Sigmoid)), &[x]) => {
            let x = c.neg(x)?;
            c.sigmoid(x)
        }
        _ => c.one_minus(gate),
    }
}

/// Part `i` of `x`, where the last axis is divided into parts of length `size`.
pub(super) fn part(c: &mut Call, x: Value, i: usize, size: usize) -> Result<Value> {
    let axis = c.rank(x) - 1;
    c.slice_axis(x, axis, i * size, (i + 1) * size, 1)
}

impl Direction {
    /// Runs all steps. Returns the hidden states in the order of time, and the last states.
    pub fn run(
        &self,
        c: &mut Call,
        inputs: Value,
        beyond: Option<&[Value]>,
        by_batch: bool,
    ) -> Result<(Vec<Value>, State)> {
        let Sizes { steps, .. } = self.sizes;
        let cell = match self.kind.cell_operands() {
            Some([i, _]) => Some(self.initial(c, i, by_batch)?),
            None => None,
        };
        let mut state = State { hidden: self.initial(c, 5, by_batch)?, cell };
        let mut outputs = vec![state.hidden; steps];
        for i in 0..steps {
            let t = if self.reverse { steps - 1 - i } else { i };
            let x = row(c, inputs, t)?;
            let mut next = match self.kind {
                Kind::Plain => self.plain(c, x, state)?,
                Kind::Gru => self.gru(c, x, state)?,
                Kind::Lstm => self.lstm(c, x, state)?,
            };
            outputs[t] = next.hidden;
            if let Some(beyond) = beyond {
                let zero = c.scalar_like(x, 0.0);
                outputs[t] = c.select(beyond[t], zero, next.hidden)?;
                next.hidden = c.select(beyond[t], state.hidden, next.hidden)?;
                if let (Some(old), Some(new)) = (state.cell, next.cell) {
                    next.cell = Some(c.select(beyond[t], old, new)?);
                }
            }
            state = next;
        }
        Ok((outputs, state))
    }

    /// The initial state in operand `i`, or zeros if it is omitted. A stored state is not a parameter:
    /// exporters write out the zeros that frameworks start with.
    fn initial(&self, c: &mut Call, i: usize, by_batch: bool) -> Result<Value> {
        let Sizes { batch, hidden, .. } = self.sizes;
        if !c.has(i) {
            let zero = c.scalar(DType::F32, 0.0);
            return c.expand(zero, &[batch, hidden]);
        }
        let mut all = c.table(i)?;
        // At a fixed batch size, a stored state has one row per sample. If they are equal, take one.
        let axis = if by_batch { 0 } else { 1 };
        if let Some(fixed) = c.batch_check().batch_if_shared(all)
            && c.shape(all).get(axis) == Some(&fixed)
            && c.known(i)?.is_some_and(|state| same_along(&state, axis))
        {
            all = c.slice_axis(all, axis, 0, batch, 1)?;
        }
        if by_batch {
            all = c.transpose(all, &[1, 0, 2])?;
        }
        row(c, all, self.index)
    }

    fn bounded(&self, c: &mut Call, x: Value) -> Result<Value> {
        match self.clip {
            Some(clip) => clamp(c, x, Some(-clip), Some(clip)),
            None => Ok(x),
        }
    }

    fn activate(&self, c: &mut Call, function: usize, x: Value) -> Result<Value> {
        let x = self.bounded(c, x)?;
        self.functions[function].apply(c, x)
    }

    /// `h' = f(x + h·Rᵀ)`.
    fn plain(&self, c: &mut Call, x: Value, state: State) -> Result<State> {
        let product = c.matmul_t(state.hidden, self.r, false, true)?;
        let sum = c.add(x, product)?;
        Ok(State { hidden: self.activate(c, 0, sum)?, cell: None })
    }

    /// `h' = (1 − z)∘n + z∘h` with the update gate `z` and the candidate `n`. The reset gate is applied
    /// to the state before its product with the weights, or after it (`linear_before_reset`).
    fn gru(&self, c: &mut Call, x: Value, state: State) -> Result<State> {
        let size = self.sizes.hidden;
        let after = c.flag("linear_before_reset", false)?;
        let h = state.hidden;
        let rows = |c: &mut Call, from: usize, to: usize| {
            c.slice_axis(self.r, 0, from * size, to * size, 1)
        };
        let bias = |c: &mut Call, y: Value, from: usize, to: usize| match self.state_bias {
            Some(bias) => {
                let own = c.slice_axis(bias, 0, from * size, to * size, 1)?;
                c.add(y, own)
            }
            None => Ok(y),
        };
        let gates = if after { self.r } else { rows(c, 0, 2)? };
        let product = c.matmul_t(h, gates, false, true)?;
        let product = bias(c, product, 0, if after { 3 } else { 2 })?;
        let gate = |c: &mut Call, i: usize| {
            let (x, y) = (part(c, x, i, size)?, part(c, product, i, size)?);
            let sum = c.add(x, y)?;
            self.activate(c, 0, sum)
        };
        let (update, reset) = (gate(c, 0)?, gate(c, 1)?);
        let passed = if after {
            let product = part(c, product, 2, size)?;
            c.mul(reset, product)?
        } else {
            let kept = c.mul(reset, h)?;
            let candidate = rows(c, 2, 3)?;
            let product = c.matmul_t(kept, candidate, false, true)?;
            bias(c, product, 2, 3)?
        };
        let x = part(c, x, 2, size)?;
        let sum = c.add(x, passed)?;
        let candidate = self.activate(c, 1, sum)?;
        let rest = one_minus(c, update)?;
        let (new, old) = (c.mul(rest, candidate)?, c.mul(update, h)?);
        Ok(State { hidden: c.add(new, old)?, cell: None })
    }

    /// `c' = f∘c + i∘g` and `h' = o∘tanh(c')`. With peepholes, the gates also depend on the cell state.
    fn lstm(&self, c: &mut Call, x: Value, state: State) -> Result<State> {
        let size = self.sizes.hidden;
        let Some(cell) = state.cell else { return Err(c.invalid("an LSTM without cells")) };
        let product = c.matmul_t(state.hidden, self.r, false, true)?;
        let sum = c.add(x, product)?;
        let gate = |c: &mut Call, i: usize, peephole: usize, seen: Value| {
            let mut sum = part(c, sum, i, size)?;
            if let Some(weights) = self.peepholes {
                let peep = c.mul(weights[peephole], seen)?;
                sum = c.add(sum, peep)?;
            }
            self.activate(c, 0, sum)
        };
        let input = gate(c, 0, 0, cell)?;
        let forget = match c.flag("input_forget", false)? {
            true => one_minus(c, input)?,
            false => gate(c, 2, 2, cell)?,
        };
        let candidate = part(c, sum, 3, size)?;
        let candidate = self.activate(c, 1, candidate)?;
        let (kept, new) = (c.mul(forget, cell)?, c.mul(input, candidate)?);
        let cell = c.push(Binary::Add, &[kept, new])?;
        let output = gate(c, 1, 1, cell)?;
        let shown = self.functions[2].apply(c, cell)?;
        Ok(State { hidden: c.mul(output, shown)?, cell: Some(cell) })
    }
}
