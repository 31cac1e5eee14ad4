//! Recurrent layers, unrolled over time.
//!
//! The products with the inputs are computed for all steps at once, those with the states step by step.
//! Beyond the end of a sequence, its state is kept and its results are zero.

mod direction;

use self::direction::{Direction, Sizes, State, part, row};
use super::activation::Activation;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::{Call, MAX_UNROLLED};
use crate::import::importer::Binding;
use crate::import::table::{Entry, rules};
use crate::tensor::DType;

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
