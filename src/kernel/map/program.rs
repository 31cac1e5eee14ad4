//! Compiles a map to a program: the order of its operations, and the registers for intermediate values.

use std::collections::BTreeMap;

use super::{Axis, Blocks, Elementwise, FusedMap, OutputLayout, PIECE, Source};

/// An argument of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Argument {
    /// A constant.
    Number(f32),
    /// An operand, at the same positions.
    Operand(usize),
    /// A register.
    Register(usize),
    /// A result that has been written, at the same positions.
    Result(usize),
}

/// The destination of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    Register(usize),
    Result(usize),
}

/// An instruction on a piece: of values, or of numbers with one per row.
#[derive(Debug, PartialEq)]
pub(super) enum Instruction {
    /// Reads an operand into a register, broadcast by the view.
    Read { operand: usize, view: Vec<Axis>, to: usize },
    /// Broadcasts numbers with one per row, in a register, to all values of their rows.
    Repeat { from: usize, to: usize },
    /// Applies an operation.
    Compute { op: Elementwise, arguments: [Argument; 3], to: Place },
    /// Copies values to a result.
    Write { from: Argument, result: usize },
    /// Adds values to sums.
    Add { from: Argument, sums: usize, blocks: Blocks },
}

/// A result that consists of sums.
#[derive(Debug)]
pub(super) struct Sum {
    pub result: usize,
    /// The index of the sums.
    pub sums: usize,
    /// For sums over rows, the register that also receives them.
    pub register: Option<usize>,
}

/// One pass over the values of a row. It needs the sums of earlier passes.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Instructions on numbers with one per row, which run first.
    pub rows: Vec<Instruction>,
    /// Instructions on values, which run piece by piece.
    pub values: Vec<Instruction>,
    /// The sums that are complete after the pass.
    pub sums: Vec<Sum>,
}

/// A map, ready to be run.
#[derive(Debug)]
pub(super) struct Program {
    /// The length of rows, if sums over rows are used.
    pub row: Option<usize>,
    /// The maximum number of rows in a piece; 1 if a row may have several pieces.
    pub rows: usize,
    /// The number of registers.
    pub registers: usize,
    /// The passes over a row, in order. A later pass recomputes values of earlier ones from the operands,
    /// which are in the cache.
    pub passes: Vec<Pass>,
}

impl Program {
    /// The program for `map`.
    pub(super) fn new(map: &FusedMap) -> Self {
        let row = map.row();
        let rows = row.map_or(1, |row| (PIECE / row).max(1));
        let mut compiler = Compiler {
            map,
            row,
            rows,
            pass: Vec::new(),
            is_of_rows: Vec::new(),
            of_rows: BTreeMap::new(),
            written: vec![None; map.steps.len()],
            registers: 0,
            free: Vec::new(),
        };
        for step in &map.steps {
            let passes = step.arguments.map(|source| compiler.pass_of(source));
            compiler.pass.push(passes.into_iter().max().unwrap_or(0));
            let is_of_rows = step.arguments.iter().all(|&source| compiler.is_of_rows(source));
            compiler.is_of_rows.push(is_of_rows);
        }
        let last = map.outputs.iter().map(|output| compiler.pass_of(output.source)).max();
        let passes = (0..=last.unwrap_or(0)).map(|pass| compiler.compile(pass)).collect();
        Program { row, rows, registers: compiler.registers, passes }
    }
}

/// Builds a program pass by pass.
struct Compiler<'a> {
    map: &'a FusedMap,
    /// As in [`Program`].
    row: Option<usize>,
    /// As in [`Program`].
    rows: usize,
    /// For each step, the first pass in which it can be computed.
    pass: Vec<usize>,
    /// For each step, whether it is constant along each row.
    is_of_rows: Vec<bool>,
    /// The registers that hold numbers with one per row.
    of_rows: BTreeMap<Source, usize>,
    /// For each step, the result that it has been written to, if any.
    written: Vec<Option<usize>>,
    /// The number of registers so far.
    registers: usize,
    /// Free registers.
    free: Vec<usize>,
}

/// The values that are available in a pass.
struct Kept {
    /// By source, the register that holds it.
    registers: BTreeMap<Source, usize>,
    /// By source, the last step that needs it.
    last: BTreeMap<Source, usize>,
    /// By source, the sums of it.
    sums: BTreeMap<Source, usize>,
}

impl Compiler<'_> {
    /// The first pass in which a source is available.
    fn pass_of(&self, source: Source) -> usize {
        match source {
            Source::Operand(_) | Source::Constant(_) => 0,
            Source::Step(i) => self.pass[i],
            Source::Sum(i) => self.pass_of(self.map.outputs[i].source) + 1,
        }
    }

    /// Whether a source is constant along each row.
    fn is_of_rows(&self, source: Source) -> bool {
        self.row.is_some()
            && match source {
                Source::Constant(_) | Source::Sum(_) => true,
                Source::Operand(i) => self.view_of_rows(i).is_some(),
                Source::Step(i) => self.is_of_rows[i],
            }
    }

    /// The view of an operand with one element per row; `None` if the operand varies along rows.
    fn view_of_rows(&self, operand: usize) -> Option<Vec<Axis>> {
        let (row, mut view) = (self.row?, self.map.views[operand].clone());
        match view.last_mut() {
            None => {}
            Some(axis) if axis.stride == 0 && axis.length % row == 0 => axis.length /= row,
            Some(_) => return None,
        }
        Some(view)
    }

    /// Takes a free register, or a new one.
    fn register(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.registers += 1;
            self.registers - 1
        })
    }

    /// The register with the numbers of a source, one per row. It keeps them through all passes.
    fn register_of_rows(&mut self, source: Source, rows: &mut Vec<Instruction>) -> usize {
        if let Some(&register) = self.of_rows.get(&source) {
            return register;
        }
        self.registers += 1;
        let to = self.registers - 1;
        if let Source::Operand(operand) = source
            && let Some(view) = self.view_of_rows(operand)
        {
            rows.push(Instruction::Read { operand, view, to });
        }
        self.of_rows.insert(source, to);
        to
    }

    /// The argument of an instruction on numbers with one per row.
    fn argument_of_rows(&mut self, source: Source, rows: &mut Vec<Instruction>) -> Argument {
        match source {
            Source::Constant(i) => Argument::Number(self.map.constants[i]),
            other => Argument::Register(self.register_of_rows(other, rows)),
        }
    }

    /// Compiles pass `number`, after those before it.
    fn compile(&mut self, number: usize) -> Pass {
        let map = self.map;
        let mut pass = Pass::default();
        for (i, step) in map.steps.iter().enumerate() {
            if self.is_of_rows[i] && self.pass[i] == number {
                let arguments = step.arguments.map(|s| self.argument_of_rows(s, &mut pass.rows));
                let to = Place::Register(self.register_of_rows(Source::Step(i), &mut pass.rows));
                pass.rows.push(Instruction::Compute { op: step.op, arguments, to });
            }
        }
        let mut outputs = Vec::new();
        for (result, output) in map.outputs.iter().enumerate() {
            if self.pass_of(output.source) != number {
                continue;
            }
            match output.layout {
                OutputLayout::Row { .. } => {
                    let from = self.argument_of_rows(output.source, &mut pass.rows);
                    pass.rows.push(Instruction::Write { from, result });
                }
                _ => outputs.push(result),
            }
        }
        let needed = self.needed(&outputs);
        let mut last = BTreeMap::new();
        for (i, step) in map.steps.iter().enumerate().filter(|(i, _)| needed[*i]) {
            last.extend(step.arguments.map(|source| (source, i)));
        }
        let mut kept = Kept { registers: BTreeMap::new(), last, sums: BTreeMap::new() };
        for (i, step) in map.steps.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let source = Source::Step(i);
            let arguments = step.arguments.map(|s| self.argument(s, &mut kept, &mut pass));
            self.release(&mut kept, |last| last == i);
            let mut own: Vec<usize>;
            (own, outputs) = outputs.into_iter().partition(|&o| map.outputs[o].source == source);
            let whole = own.iter().position(|&o| map.outputs[o].layout == OutputLayout::Whole);
            let to = match whole {
                Some(whole) => {
                    let result = own.swap_remove(whole);
                    self.written[i] = Some(result);
                    Place::Result(result)
                }
                None => {
                    let register = self.register();
                    kept.registers.insert(source, register);
                    Place::Register(register)
                }
            };
            pass.values.push(Instruction::Compute { op: step.op, arguments, to });
            own.into_iter().for_each(|output| self.put_out(output, &mut kept, &mut pass));
            if !kept.last.contains_key(&source) {
                self.free.extend(kept.registers.remove(&source));
            }
        }
        // Outputs whose source is not a step.
        outputs.into_iter().for_each(|output| self.put_out(output, &mut kept, &mut pass));
        self.free.extend(kept.registers.into_values());
        pass
    }

    /// The steps that `outputs` depend on, except those already written.
    fn needed(&self, outputs: &[usize]) -> Vec<bool> {
        let mut needed = vec![false; self.map.steps.len()];
        let need = |source, needed: &mut [bool]| {
            if let Source::Step(i) = source {
                needed[i] |= !self.is_of_rows[i] && self.written[i].is_none();
            }
        };
        outputs.iter().for_each(|&o| need(self.map.outputs[o].source, &mut needed));
        for (i, step) in self.map.steps.iter().enumerate().rev() {
            if needed[i] {
                step.arguments.iter().for_each(|&source| need(source, &mut needed));
            }
        }
        needed
    }

    /// The argument of an instruction on values.
    fn argument(&mut self, source: Source, kept: &mut Kept, pass: &mut Pass) -> Argument {
        match source {
            Source::Constant(i) => return Argument::Number(self.map.constants[i]),
            Source::Operand(i) if self.map.is_as_it_lies(i) => return Argument::Operand(i),
            Source::Step(i) if let Some(result) = self.written[i] => {
                return Argument::Result(result);
            }
            _ => {}
        }
        if let Some(&register) = kept.registers.get(&source) {
            return Argument::Register(register);
        }
        if self.is_of_rows(source) {
            let from = self.register_of_rows(source, &mut pass.rows);
            if self.rows == 1 {
                return Argument::Register(from);
            }
            let to = self.register();
            pass.values.push(Instruction::Repeat { from, to });
            kept.registers.insert(source, to);
            return Argument::Register(to);
        }
        let to = self.register();
        if let Source::Operand(operand) = source {
            let view = self.map.views[operand].clone();
            pass.values.push(Instruction::Read { operand, view, to });
        }
        kept.registers.insert(source, to);
        Argument::Register(to)
    }

    /// Frees the registers of sources whose last use is at such a step.
    fn release(&mut self, kept: &mut Kept, is_last: impl Fn(usize) -> bool) {
        let Kept { registers, last, .. } = kept;
        last.retain(|source, step| {
            let goes = is_last(*step);
            if goes {
                self.free.extend(registers.remove(source));
            }
            !goes
        });
    }

    /// Adds the instruction that writes or sums a result.
    fn put_out(&mut self, result: usize, kept: &mut Kept, pass: &mut Pass) {
        let output = self.map.outputs[result];
        let OutputLayout::Sum { blocks, .. } = output.layout else {
            let from = self.argument(output.source, kept, pass);
            pass.values.push(Instruction::Write { from, result });
            return;
        };
        // The blocks of all sums have the same size, so outputs with the same source share a sum.
        let number = match kept.sums.get(&output.source) {
            Some(&number) => number,
            None => {
                let from = self.argument(output.source, kept, pass);
                pass.values.push(Instruction::Add { from, sums: result, blocks });
                pass.values.len() - 1
            }
        };
        kept.sums.insert(output.source, number);
        let Instruction::Add { sums, .. } = pass.values[number] else {
            unreachable!("sums are made by adding");
        };
        let register = self.row.map(|_| self.register_of_rows(Source::Sum(result), &mut pass.rows));
        pass.sums.push(Sum { result, sums, register });
    }
}
