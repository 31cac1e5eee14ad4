//! Recurrent layers, unrolled over time.
//!
//! The products with the inputs are computed for all steps at once, those with the states step by step.
//! Beyond the end of a sequence, its state is kept and its results are zero.

use ndarray::Axis;

use super::activation::Activation;
use super::elementwise::clamp;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::{Call, MAX_UNROLLED};
use crate::import::importer::Binding;
use crate::import::table::{Entry, rules};
use crate::ops::{Binary, Op, Primitive, Unary};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rules("GRU", 7, "unrolled: MatMul, Add, Sigmoid, Tanh, Mul", |c| recurrent(c, Kind::Gru)),
    rules("LSTM", 7, "unrolled: MatMul, Add, Sigmoid, Tanh, Mul", |c| recurrent(c, Kind::Lstm)),
    rules("RNN", 7, "unrolled: MatMul, Add, Tanh", |c| recurrent(c, Kind::Plain)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Gru,
    Lstm,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Plain => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    /// The default activations.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Plain => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }

    /// The indices of the operands with the initial cell state and the peepholes, for an LSTM.
    fn cell_operands(self) -> Option<[usize; 2]> {
        (self == Kind::Lstm).then_some([6, 7])
    }
}

/// The activations of all directions, in order. An activation takes as many values from the lists of
/// parameters as it has parameters.
fn activations(c: &Call, kind: Kind, directions: usize) -> Result<Vec<Activation>> {
    let wanted = kind.activations().len() * directions;
    let given = c.strings("activations")?;
    let names: Vec<String> = match given {
        Some(names) if names.len() == wanted => names.iter().map(|n| n.to_lowercase()).collect(),
        Some(names) => {
            return Err(c.invalid(format_args!("{} activations, not {wanted}", names.len())));
        }
        None => {
            let each = kind.activations().iter().map(|n| n.to_lowercase());
            each.cycle().take(wanted).collect()
        }
    };
    let mut alphas = c.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = c.floats("activation_beta")?.unwrap_or_default().into_iter();
    let each = names.into_iter().map(|name| {
        let [alpha, beta] = Activation::defaults(&name);
        let alpha = alpha.and_then(|_| alphas.next());
        let beta = beta.and_then(|_| betas.next());
        Activation::new(name, alpha, beta)
    });
    Ok(each.collect())
}

/// Sizes of a recurrent layer.
#[derive(Clone, Copy)]
struct Sizes {
    steps: usize,
    batch: usize,
    hidden: usize,
}

/// One direction of a layer.
struct Direction {
    kind: Kind,
    sizes: Sizes,
    /// The index of the direction, and whether it runs backwards.
    index: usize,
    reverse: bool,
    /// The recurrence weights `[gates·hidden, hidden]`.
    r: Value,
    /// The bias of the products with the states, if it cannot be added to that of the inputs.
    state_bias: Option<Value>,
    peepholes: Option<[Value; 3]>,
    functions: Vec<Activation>,
    clip: Option<f64>,
}

/// The hidden and cell state at one step.
#[derive(Clone, Copy)]
struct State {
    hidden: Value,
    cell: Option<Value>,
}

/// Whether a tensor is constant along an axis.
fn same_along(tensor: &Tensor, axis: usize) -> bool {
    let values = tensor.to_f64();
    let mut rows = values.axis_iter(Axis(axis));
    rows.next().is_some_and(|first| rows.all(|row| row == first))
}

/// Row `i` along the first axis of `x`, without that axis.
fn row(c: &mut Call, x: Value, i: usize) -> Result<Value> {
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
fn part(c: &mut Call, x: Value, i: usize, size: usize) -> Result<Value> {
    let axis = c.rank(x) - 1;
    c.slice_axis(x, axis, i * size, (i + 1) * size, 1)
}

fn recurrent(c: &mut Call, kind: Kind) -> Result<Vec<Binding>> {
    let by_batch = c.flag("layout", false)?;
    let mut x = c.operand(0)?;
    if by_batch {
        x = c.transpose(x, &[1, 0, 2])?;
    }
    let (w, r) = (c.weight(1)?, c.weight(2)?);
    let (shape, weights, recurrence) = (c.shape(x), c.shape(w), c.shape(r));
    let (&[steps, batch, _], &[directions, rows, _]) = (&shape[..], &weights[..]) else {
        return Err(c.invalid(format_args!("operands of shapes {shape:?} and {weights:?}")));
    };
    let hidden = recurrence.last().copied().unwrap_or(0);
    let sizes = Sizes { steps, batch, hidden };
    let reverses: &[bool] = match c.text("direction", "forward")? {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(c.invalid(format_args!("direction '{other}' is not defined"))),
    };
    if rows != kind.gates() * hidden || directions != reverses.len() || steps == 0 {
        return Err(c.invalid(format_args!(
            "weights {weights:?} and {recurrence:?} for {} directions",
            reverses.len()
        )));
    }
    if steps > MAX_UNROLLED {
        return Err(c.unsupported(format!(
            "{steps} steps are more than {MAX_UNROLLED}, the most that are unrolled; export the model \
             for shorter sequences"
        )));
    }
    let functions = activations(c, kind, directions)?;
    let clip = c.optional_float("clip")?.filter(|&clip| clip > 0.0);
    let beyond = step_masks(c, sizes)?;
    let flat = c.reshape(x, &[steps * batch, shape[2]])?;
    let mut sequences = Vec::new();
    let mut last = Vec::new();
    for (index, &reverse) in reverses.iter().enumerate() {
        let w = row(c, w, index)?;
        let mut inputs = c.matmul_t(flat, w, false, true)?;
        let mut state_bias = None;
        if let Some(bias) = c.optional_weight(3)? {
            let bias = row(c, bias, index)?;
            let (ours, theirs) = (part(c, bias, 0, rows)?, part(c, bias, 1, rows)?);
            inputs = c.add(inputs, ours)?;
            match kind {
                // The reset gate may be applied to the product and its bias.
                Kind::Gru => state_bias = Some(theirs),
                _ => inputs = c.add(inputs, theirs)?,
            }
        }
        let inputs = c.reshape(inputs, &[steps, batch, rows])?;
        let peepholes = match kind.cell_operands() {
            Some([_, i]) if c.has(i) => {
                let all = c.weight(i)?;
                let all = row(c, all, index)?;
                Some([part(c, all, 0, hidden)?, part(c, all, 1, hidden)?, part(c, all, 2, hidden)?])
            }
            _ => None,
        };
        let count = kind.activations().len();
        let direction = Direction {
            kind,
            sizes,
            index,
            reverse,
            r: row(c, r, index)?,
            state_bias,
            peepholes,
            functions: functions[index * count..(index + 1) * count].to_vec(),
            clip,
        };
        let (outputs, state) = direction.run(c, inputs, beyond.as_deref(), by_batch)?;
        sequences.push(outputs);
        last.push(state);
    }
    results(c, &sequences, &last, by_batch)
}

/// For each step, a mask `[batch, 1]` of the sequences that have ended before it. `None` if all
/// sequences have the full length.
fn step_masks(c: &mut Call, sizes: Sizes) -> Result<Option<Vec<Value>>> {
    if !c.has(4) {
        return Ok(None);
    }
    let full = sizes.steps as i64;
    if let Some(lengths) = c.known(4)?.and_then(|t| t.to_i64())
        && lengths.iter().all(|&n| n >= full)
    {
        return Ok(None);
    }
    let lengths = c.fixed(4)?;
    let lengths = c.cast(lengths, DType::I64)?;
    let lengths = c.reshape(lengths, &[sizes.batch, 1])?;
    let steps = (0..sizes.steps).map(|t| {
        let t = c.scalar(DType::I64, t as f64);
        c.less_or_equal(lengths, t)
    });
    steps.collect::<Result<_>>().map(Some)
}

impl Direction {
    /// Runs all steps. Returns the hidden states in the order of time, and the last states.
    fn run(
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

/// The states of all steps `[steps, directions, batch, hidden]`, and the last hidden and cell states
/// `[directions, batch, hidden]`. With `layout` 1, the batch axis comes first.
fn results(
    c: &mut Call,
    sequences: &[Vec<Value>],
    last: &[State],
    by_batch: bool,
) -> Result<Vec<Binding>> {
    let mut rows = Vec::new();
    for outputs in sequences {
        let steps = outputs.iter().map(|&y| {
            let shape = c.shape(y);
            c.reshape(y, &[1, 1, shape[0], shape[1]])
        });
        let steps = steps.collect::<Result<Vec<_>>>()?;
        rows.push(c.concat(&steps, 0)?);
    }
    let mut y = c.concat(&rows, 1)?;
    let stack = |c: &mut Call, values: Vec<Value>| -> Result<Value> {
        let each = values.into_iter().map(|v| {
            let shape = c.shape(v);
            c.reshape(v, &[1, shape[0], shape[1]])
        });
        let each = each.collect::<Result<Vec<_>>>()?;
        let all = c.concat(&each, 0)?;
        if by_batch { c.transpose(all, &[1, 0, 2]) } else { Ok(all) }
    };
    let hidden = stack(c, last.iter().map(|s| s.hidden).collect())?;
    let cells: Option<Vec<Value>> = last.iter().map(|s| s.cell).collect();
    let cell = match cells {
        Some(cells) => stack(c, cells)?.into(),
        None => Binding::Absent("only an LSTM has cells"),
    };
    if by_batch {
        y = c.transpose(y, &[2, 0, 1, 3])?;
    }
    Ok(vec![y.into(), hidden.into(), cell])
}
