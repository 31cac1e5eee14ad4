//! In which order the operations of a map are done, and where values are kept meanwhile.

use std::collections::BTreeMap;

use super::{Axis, Blocks, Elementwise, Map, OutputLayout, PIECE, Source};

/// Where an instruction finds values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Argument {
    /// The same number everywhere.
    Number(f32),
    /// In an operand, at their own place.
    Operand(usize),
    /// In a register.
    Register(usize),
    /// In a result, at their own place.
    Result(usize),
}

/// Where an instruction puts values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    Register(usize),
    Result(usize),
}

/// What is done to a piece: of the values, or of numbers that each are one row's.
#[derive(Debug, PartialEq)]
pub(super) enum Instruction {
    /// Puts elements of an operand into a register, repeated as the view says.
    Read { operand: usize, view: Vec<Axis>, to: usize },
    /// Puts numbers of rows, found in a register, into another: each for all values of its row.
    Repeat { from: usize, to: usize },
    /// Does an operation.
    Compute { op: Elementwise, arguments: [Argument; 3], to: Place },
    /// Copies values to a result.
    Write { from: Argument, result: usize },
    /// Adds values to sums, and their magnitudes where these are needed.
    Add { from: Argument, sums: usize, blocks: Blocks },
}

/// A result that is made of sums.
#[derive(Debug)]
pub(super) struct Sum {
    pub result: usize,
    /// The number of the sums.
    pub sums: usize,
    /// For sums over rows, the register that they go to as well.
    pub register: Option<usize>,
}

/// What needs the same sums over rows.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// What is done with numbers of rows, before anything else.
    pub rows: Vec<Instruction>,
    /// What is done with values, piece by piece.
    pub values: Vec<Instruction>,
    /// The results that are sums and known in the end.
    pub sums: Vec<Sum>,
}

/// A map, ready to be run.
#[derive(Debug)]
pub(super) struct Program {
    /// The length of rows, if anything is made of their sums.
    pub row: Option<usize>,
    /// How many rows a piece holds at most; 1 where a row may have more than one piece.
    pub rows: usize,
    /// How many registers there are.
    pub registers: usize,
    /// All passes over a row, in order. What a later one needs again it computes again, from operands
    /// that are in the cache.
    pub passes: Vec<Pass>,
}

impl Program {
    /// The program for `map`.
    pub(super) fn new(map: &Map) -> Self {
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

/// A program that is put together, pass by pass.
struct Compiler<'a> {
    map: &'a Map,
    /// As in [`Program`].
    row: Option<usize>,
    /// As in [`Program`].
    rows: usize,
    /// For each step, the pass in which it can be computed.
    pass: Vec<usize>,
    /// For each step, whether it is the same throughout a row.
    is_of_rows: Vec<bool>,
    /// The registers of numbers of rows.
    of_rows: BTreeMap<Source, usize>,
    /// For each step, the result that it has been written to.
    written: Vec<Option<usize>>,
    /// How many registers there are so far.
    registers: usize,
    /// Registers that nothing needs any more.
    free: Vec<usize>,
}

/// What a pass has already.
struct Kept {
    /// Where values are.
    registers: BTreeMap<Source, usize>,
    /// The step that needs values last.
    last: BTreeMap<Source, usize>,
    /// By what is summed up, the instruction that does it.
    sums: BTreeMap<Source, usize>,
}

impl Compiler<'_> {
    /// The first pass in which a source is known.
    fn pass_of(&self, source: Source) -> usize {
        match source {
            Source::Operand(_) | Source::Constant(_) => 0,
            Source::Step(i) => self.pass[i],
            Source::Sum(i) => self.pass_of(self.map.outputs[i].source) + 1,
        }
    }

    /// Whether a source is the same throughout each row.
    fn is_of_rows(&self, source: Source) -> bool {
        self.row.is_some()
            && match source {
                Source::Constant(_) | Source::Sum(_) => true,
                Source::Operand(i) => self.view_of_rows(i).is_some(),
                Source::Step(i) => self.is_of_rows[i],
            }
    }

    /// How an operand is repeated to one element for each row, if that is what it has.
    fn view_of_rows(&self, operand: usize) -> Option<Vec<Axis>> {
        let (row, mut view) = (self.row?, self.map.views[operand].clone());
        match view.last_mut() {
            None => {}
            Some(axis) if axis.stride == 0 && axis.length % row == 0 => axis.length /= row,
            Some(_) => return None,
        }
        Some(view)
    }

    /// A register that nothing needs.
    fn register(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.registers += 1;
            self.registers - 1
        })
    }

    /// The register of numbers of rows, which keeps them through all passes.
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

    /// What an instruction on numbers of rows takes.
    fn argument_of_rows(&mut self, source: Source, rows: &mut Vec<Instruction>) -> Argument {
        match source {
            Source::Constant(i) => Argument::Number(self.map.constants[i]),
            other => Argument::Register(self.register_of_rows(other, rows)),
        }
    }

    /// The pass of this number, given those before it.
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
        // What no step computes.
        outputs.into_iter().for_each(|output| self.put_out(output, &mut kept, &mut pass));
        self.free.extend(kept.registers.into_values());
        pass
    }

    /// The steps on values that `outputs` are made of, unless they are written already.
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

    /// What an instruction on values takes.
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

    /// Frees the registers of what is needed by such a step at last.
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

    /// Adds what makes a result.
    fn put_out(&mut self, result: usize, kept: &mut Kept, pass: &mut Pass) {
        let output = self.map.outputs[result];
        let OutputLayout::Sum { blocks, .. } = output.layout else {
            let from = self.argument(output.source, kept, pass);
            pass.values.push(Instruction::Write { from, result });
            return;
        };
        // The blocks of all sums are of the same size.
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
