//! The description of a map: its operands, operations and results.

macro_rules! elementwise {
    ($($name:ident),* $(,)?) => {
        /// An elementwise operation on float32. Truth is 1 and its absence 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Elementwise {
            $($name),*
        }

        impl Elementwise {
            /// All operations; the position of each is its number.
            pub const ALL: &[Elementwise] = &[$(Elementwise::$name),*];
        }
    };
}

elementwise!(
    Abs,
    Add,
    And,
    Div,
    Equal,
    Exp,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Reciprocal,
    Relu,
    Select,
    Sign,
    Sqrt,
    Sub,
);

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An operand.
    Operand(usize),
    /// A constant.
    Constant(usize),
    /// An earlier step.
    Step(usize),
    /// An earlier output that is a sum over rows: for each value, that of its row.
    Sum(usize),
}

/// An operation of a [`FusedMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is computed.
    pub op: Elementwise,
    /// Of what; an operation of fewer than three does not look at the others.
    pub arguments: [Source; 3],
}

/// An axis along which an operand is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Its length.
    pub length: usize,
    /// The distance of neighbouring elements; 0 where the operand is repeated.
    pub stride: usize,
}

/// How computed values are laid out in a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutputLayout {
    /// They are written as they are.
    Whole,
    /// They are summed, times a factor.
    Sum {
        /// How values lie.
        blocks: Blocks,
        /// The factor.
        scale: f32,
    },
    /// They are the same throughout each row of `length` values, and written once a row.
    Row {
        /// Values of a row.
        length: usize,
    },
}

/// Values as `[outer, length, inner]`, of which the middle axis is summed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Sums that lie apart.
    pub outer: usize,
    /// Terms of a sum.
    pub length: usize,
    /// Sums that lie side by side.
    pub inner: usize,
}

impl Blocks {
    /// A shape with the axes summed over in one piece, where they are one.
    pub fn new(shape: &[usize], axes: &[usize]) -> Option<Self> {
        // Axes of length 1 may count as summed over or not.
        let summed: Vec<usize> = axes.iter().copied().filter(|&i| shape[i] != 1).collect();
        let (first, last) = (*summed.first()?, *summed.last()?);
        let kept = (first..=last).any(|i| shape[i] != 1 && !summed.contains(&i));
        let product = |range: &[usize]| range.iter().product::<usize>();
        let blocks = Blocks {
            outer: product(&shape[..first]),
            length: product(&shape[first..=last]),
            inner: product(&shape[last + 1..]),
        };
        (!kept).then_some(blocks)
    }

    /// The number of values that lie together.
    pub fn size(&self) -> usize {
        self.length * self.inner
    }
}

/// A result of a [`FusedMap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapOutput {
    /// The values.
    pub source: Source,
    /// How they are laid out.
    pub layout: OutputLayout,
}

/// Elementwise operations on `len` values, and their results.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedMap {
    /// The number of values.
    pub len: usize,
    /// How each operand is repeated to `len` values.
    pub views: Vec<Vec<Axis>>,
    /// The operands that are truth values.
    pub truths: Vec<usize>,
    /// Numbers that operations use.
    pub constants: Vec<f32>,
    /// The operations.
    pub steps: Vec<Step>,
    /// The results. The blocks of all sums have the same size, which is that of rows.
    pub outputs: Vec<MapOutput>,
}

/// An operand of a [`FusedMap`].
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Numbers.
    Floats(&'a [f32]),
    /// Truth values.
    Bools(&'a [bool]),
}

impl MapOutput {
    /// The number of elements, of a map of `len` values.
    pub(super) fn len(&self, len: usize) -> usize {
        match self.layout {
            OutputLayout::Whole => len,
            OutputLayout::Sum { blocks, .. } => blocks.outer * blocks.inner,
            OutputLayout::Row { length } => len / length,
        }
    }

    /// The number of values that go into one or more whole elements.
    pub(super) fn block(&self) -> usize {
        match self.layout {
            OutputLayout::Whole => 1,
            OutputLayout::Sum { blocks, .. } => blocks.size(),
            OutputLayout::Row { length } => length,
        }
    }
}

impl FusedMap {
    /// The length of rows, where anything is made of sums over them.
    pub(super) fn row(&self) -> Option<usize> {
        let is_row = |output: &MapOutput| matches!(output.layout, OutputLayout::Row { .. });
        let sources = self.steps.iter().flat_map(|step| step.arguments);
        let mut sources = sources.chain(self.outputs.iter().map(|output| output.source));
        let has_rows = sources.any(|source| matches!(source, Source::Sum(_)));
        (has_rows || self.outputs.iter().any(is_row)).then(|| self.block())
    }

    /// Whether the elements of an operand are the values in order.
    pub(super) fn is_as_it_lies(&self, operand: usize) -> bool {
        matches!(self.views[operand][..], [Axis { stride: 1, .. }])
            && !self.truths.contains(&operand)
    }

    /// The values that no two threads may share.
    pub(super) fn block(&self) -> usize {
        self.outputs.iter().map(MapOutput::block).max().unwrap_or(1).max(1)
    }
}
