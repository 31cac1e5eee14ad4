//! Why the number of linear regions is fragile: `cargo run --example linear_regions`.
//!
//! A ReLU network is affine wherever its pattern of active units stays the same. This example
//! counts the patterns of a network of three layers in two dimensions, exactly. Then it changes one
//! weight by 0.05: seven regions become ten, and the function stays nearly what it was.
//!
//! It draws both into `docs/linear-regions.svg`; with `--check` it fails where that file is behind.
//!
//! A region is the set of inputs with one activation pattern, a unit being active where its input
//! is above zero. The score `te-nas-regions` counts the same patterns, as far as it meets them on
//! the inputs it is given. As every unit is affine while those before it keep their state, a region
//! is cut out by half-planes: it is convex, and never falls into several pieces.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

/// The weight that changes, w: that of input 3 in unit 1 of layer 2.
const WEIGHT: f64 = 0.1;
const PERTURBED: f64 = 0.15;

/// The picture shows [−3, 3]², which every region reaches into.
const HALF_WIDTH: f64 = 3.0;

/// This square stands for the plane: lines between regions that cross do so within 35 of the
/// origin, for all weights w in the summary.
const FAR: f64 = 1000.0;

/// A unit's input closer to zero than this counts as zero. A polygon is cut only where it has
/// corners beyond that on both sides, so rounding makes no regions.
const EPSILON: f64 = 1e-9;

type Point = [f64; 2];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => draw(),
        (Some("--check"), None) => check(),
        _ => Err("usage: linear_regions [--check]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn draw() -> Result<(), String> {
    print!("{}", summary());
    let path = picture_path();
    std::fs::write(&path, picture()).map_err(|error| format!("{}: {error}", path.display()))
}

fn check() -> Result<(), String> {
    let path = picture_path();
    match std::fs::read_to_string(&path) {
        Ok(file) if file == picture() => Ok(()),
        Ok(_) => Err(format!("{} is behind: run this example without --check", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Cargo says where the repository is; without cargo it is the current folder.
fn picture_path() -> PathBuf {
    PathBuf::from(option_env!("CARGO_MANIFEST_DIR").unwrap_or(".")).join("docs/linear-regions.svg")
}

// The networks

struct Layer {
    /// One row a unit.
    weights: Vec<Vec<f64>>,
    biases: Vec<f64>,
}

struct Network {
    /// Each is followed by a ReLU.
    hidden: Vec<Layer>,
    output: Layer,
}

/// Two inputs, three hidden units, two hidden units, one output.
fn network(weight: f64) -> Network {
    let layer = |weights: &[&[f64]], biases: &[f64]| Layer {
        weights: weights.iter().map(|row| row.to_vec()).collect(),
        biases: biases.to_vec(),
    };
    Network {
        hidden: vec![
            layer(&[&[1.0, -0.5], &[-0.4, -0.2], &[0.1, -0.8]], &[1.2, -0.1, 1.9]),
            layer(&[&[-0.1, -0.2, weight], &[1.0, 0.8, 1.0]], &[-0.2, 0.8]),
        ],
        output: layer(&[&[-0.5, -1.0]], &[0.0]),
    }
}

/// The function `gradient · p + offset` of the input `p`.
#[derive(Clone, Copy)]
struct Affine {
    gradient: [f64; 2],
    offset: f64,
}

impl Affine {
    const ZERO: Self = Self { gradient: [0.0; 2], offset: 0.0 };
    const INPUTS: [Self; 2] =
        [Self { gradient: [1.0, 0.0], offset: 0.0 }, Self { gradient: [0.0, 1.0], offset: 0.0 }];

    fn at(&self, point: Point) -> f64 {
        self.gradient[0] * point[0] + self.gradient[1] * point[1] + self.offset
    }
}

impl Layer {
    /// The inputs of its units' ReLUs, where those of the layer are affine.
    fn apply(&self, signals: &[Affine]) -> Vec<Affine> {
        let unit = |(row, &bias): (&Vec<f64>, &f64)| {
            let mut sum = Affine { offset: bias, ..Affine::ZERO };
            for (weight, signal) in row.iter().zip(signals) {
                sum.gradient[0] += weight * signal.gradient[0];
                sum.gradient[1] += weight * signal.gradient[1];
                sum.offset += weight * signal.offset;
            }
            sum
        };
        self.weights.iter().zip(&self.biases).map(unit).collect()
    }
}

// The regions

struct Region {
    /// Convex, its corners counter-clockwise.
    polygon: Vec<Point>,
    /// Which hidden units are active, layer after layer.
    pattern: Vec<bool>,
    /// The outputs of the last layer seen so far.
    signals: Vec<Affine>,
}

fn square(half: f64) -> Vec<Point> {
    vec![[-half, -half], [half, -half], [half, half], [-half, half]]
}

/// The parts of a convex polygon on which the hidden units keep their state.
fn regions(network: &Network, polygon: Vec<Point>) -> Vec<Region> {
    let whole = Region { polygon, pattern: Vec::new(), signals: Affine::INPUTS.to_vec() };
    network.hidden.iter().fold(vec![whole], |regions, layer| {
        regions.into_iter().flat_map(|region| push_through(layer, region)).collect()
    })
}

fn push_through(layer: &Layer, region: Region) -> Vec<Region> {
    // Inside the region every unit is affine. The parts it is cut into stay convex.
    let units = layer.apply(&region.signals);
    let whole = Region { signals: Vec::new(), ..region };
    units.into_iter().fold(vec![whole], |parts, unit| {
        parts.iter().flat_map(|part| rectify(part, unit)).collect()
    })
}

/// Cuts a region along the zero line of one more unit, if that passes through it.
fn rectify(region: &Region, unit: Affine) -> Vec<Region> {
    let values = || region.polygon.iter().map(|&corner| unit.at(corner));
    let (below, above) =
        (values().any(|value| value < -EPSILON), values().any(|value| value > EPSILON));
    let states: &[bool] = match (below, above) {
        (true, true) => &[false, true],
        (false, true) => &[true],
        // A unit that is zero throughout is not active.
        (_, false) => &[false],
    };
    states
        .iter()
        .map(|&active| {
            let signal = if active { unit } else { Affine::ZERO };
            Region {
                polygon: side(&region.polygon, unit, active),
                pattern: [&region.pattern[..], &[active]].concat(),
                signals: [&region.signals[..], &[signal]].concat(),
            }
        })
        .collect()
}

/// The part of a convex polygon on the positive or on the negative side of a line.
fn side(polygon: &[Point], line: Affine, positive: bool) -> Vec<Point> {
    let height = |corner| if positive { line.at(corner) } else { -line.at(corner) };
    let mut kept = Vec::new();
    for (&from, &to) in edges(polygon) {
        let (a, b) = (height(from), height(to));
        if a >= -EPSILON {
            kept.push(from);
        }
        if a.min(b) < -EPSILON && a.max(b) > EPSILON {
            let t = a / (a - b);
            kept.push([from[0] + t * (to[0] - from[0]), from[1] + t * (to[1] - from[1])]);
        }
    }
    kept
}

fn edges(polygon: &[Point]) -> impl Iterator<Item = (&Point, &Point)> {
    polygon.iter().zip(polygon.iter().cycle().skip(1))
}

// What there is to say about them

fn patterns(regions: &[Region]) -> BTreeSet<&[bool]> {
    regions.iter().map(|region| region.pattern.as_slice()).collect()
}

/// The largest difference of two networks on the square, and the range of the first.
///
/// Both are affine on every region of the one cut by those of the other: the corners are enough.
fn difference_and_range(f: &Network, g: &Network) -> (f64, f64) {
    let (mut difference, mut low, mut high) = (0.0_f64, f64::INFINITY, f64::NEG_INFINITY);
    for of_f in regions(f, square(HALF_WIDTH)) {
        for of_g in regions(g, of_f.polygon) {
            let values = [(f, &of_f.signals), (g, &of_g.signals)];
            let [f, g] = values.map(|(network, signals)| network.output.apply(signals)[0]);
            for &corner in &of_g.polygon {
                difference = difference.max((f.at(corner) - g.at(corner)).abs());
                low = low.min(f.at(corner));
                high = high.max(f.at(corner));
            }
        }
    }
    (difference, high - low)
}

fn summary() -> String {
    let count = |weight, half| patterns(&regions(&network(weight), square(half))).len();
    let (difference, range) = difference_and_range(&network(WEIGHT), &network(PERTURBED));
    let percent = 100.0 * difference / range;
    let mut text = String::from("w     regions in the square  regions in the plane\n");
    for weight in [WEIGHT, 0.11, 0.12, PERTURBED] {
        let (near, far) = (count(weight, HALF_WIDTH), count(weight, FAR));
        text += &format!("{weight:.2}  {near:>21}  {far:>20}\n");
    }
    text += &format!(
        "From w = {WEIGHT} to {PERTURBED} the function changes by at most {difference:.4} on the \
         square,\nwhere it ranges over {range:.3}: by {percent:.2} %.\n"
    );
    text
}

// The picture, in pixels

const PANEL: f64 = 320.0;
const LEFT: [f64; 2] = [24.0, 376.0];
const TOP: f64 = 52.0;
const SIZE: [f64; 2] = [720.0, 434.0];

/// Seven colours for the patterns of the first network. Those that only the second one has are
/// darker shades of the regions they are cut from.
const COLOURS: [&str; 10] = [
    "#f4a582", "#f7cf6b", "#c9a6d8", "#8fc1e3", "#f2a7b5", "#9ed39a", "#e3d9a8", "#4a8fc4",
    "#56a653", "#c4ad55",
];

fn picture() -> String {
    let before = regions(&network(WEIGHT), square(HALF_WIDTH));
    let after = regions(&network(PERTURBED), square(HALF_WIDTH));
    let (fewer, more) = (patterns(&before).len(), patterns(&after).len());
    let change = PERTURBED - WEIGHT;

    let mut colours = BTreeMap::new();
    let captions = [format!("w = {WEIGHT}")];
    let left = panel(LEFT[0], &before, &mut colours, &captions);
    let captions =
        [format!("w = {PERTURBED} (layer 2, unit 1, input 3)"), "darker: new patterns".into()];
    let right = panel(LEFT[1], &after, &mut colours, &captions);

    let [width, height] = SIZE;
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img' \
         aria-labelledby='title desc' font-family='sans-serif' font-size='14' \
         text-anchor='middle' fill='#24292f'>\n\
         <title id='title'>One weight changes by {change:.2}, and {fewer} linear regions become \
         {more}</title>\n\
         <desc id='desc'>Two squares of the plane, cut into the regions where a small ReLU network \
         is affine: {fewer} where the weight w is {WEIGHT}, {more} where it is {PERTURBED}. Three \
         regions are cut in two; the new parts are darker.</desc>\n\
         <rect width='{width}' height='{height}' rx='8' fill='#f6f8fa'/>\n\
         {left}{right}</svg>\n"
    )
}

/// Draws one network's regions. The same pattern has the same colour in all panels.
fn panel<'a>(
    left: f64,
    regions: &'a [Region],
    colours: &mut BTreeMap<&'a [bool], &str>,
    captions: &[String],
) -> String {
    let middle = left + PANEL / 2.0;
    let count = patterns(regions).len();
    let mut svg = format!(
        "<text x='{middle}' y='36' font-size='20' font-weight='bold'>{count} regions</text>\n\
         <g stroke='#fff' stroke-width='1.5' stroke-linejoin='round'>\n"
    );
    for region in regions {
        let next = COLOURS[colours.len() % COLOURS.len()];
        let colour = colours.entry(&region.pattern).or_insert(next);
        let corners: Vec<String> =
            region.polygon.iter().map(|&corner| pixel(left, corner)).collect();
        let corners = corners.join(" ");
        svg += &format!("<polygon points='{corners}' fill='{colour}'/>\n");
    }
    svg += "</g>\n";
    for (line, caption) in captions.iter().enumerate() {
        let y = TOP + PANEL + 24.0 + 20.0 * line as f64;
        svg += &format!("<text x='{middle}' y='{y}'>{caption}</text>\n");
    }
    svg
}

/// The second coordinate points up in the plane, and down in the picture.
fn pixel(left: f64, point: Point) -> String {
    let scale = PANEL / (2.0 * HALF_WIDTH);
    let x = left + (point[0] + HALF_WIDTH) * scale;
    let y = TOP + (HALF_WIDTH - point[1]) * scale;
    format!("{x:.1},{y:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the network says itself: the states of its hidden units, and its output.
    fn evaluate(network: &Network, point: Point) -> (Vec<bool>, f64) {
        let apply = |layer: &Layer, input: &[f64]| -> Vec<f64> {
            let unit = |(row, bias): (&Vec<f64>, &f64)| {
                bias + row.iter().zip(input).map(|(w, x)| w * x).sum::<f64>()
            };
            layer.weights.iter().zip(&layer.biases).map(unit).collect()
        };
        let (mut pattern, mut signals) = (Vec::new(), point.to_vec());
        for layer in &network.hidden {
            signals = apply(layer, &signals);
            pattern.extend(signals.iter().map(|&input| input > 0.0));
            signals.iter_mut().for_each(|input| *input = input.max(0.0));
        }
        (pattern, apply(&network.output, &signals)[0])
    }

    fn both() -> [(Network, Vec<Region>); 2] {
        [WEIGHT, PERTURBED].map(|weight| {
            let regions = regions(&network(weight), square(HALF_WIDTH));
            (network(weight), regions)
        })
    }

    fn area(polygon: &[Point]) -> f64 {
        edges(polygon).map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum::<f64>() / 2.0
    }

    fn centre(polygon: &[Point]) -> Point {
        let mean = |axis: usize| {
            polygon.iter().map(|corner| corner[axis]).sum::<f64>() / polygon.len() as f64
        };
        [mean(0), mean(1)]
    }

    #[test]
    fn seven_regions_become_ten() {
        let [before, after] = both();
        assert_eq!((patterns(&before.1).len(), patterns(&after.1).len()), (7, 10));
        assert!(patterns(&before.1).is_subset(&patterns(&after.1)));
    }

    #[test]
    fn the_square_shows_all_regions_of_the_plane() {
        for (network, near) in both() {
            assert_eq!(patterns(&near), patterns(&regions(&network, square(FAR))));
        }
    }

    #[test]
    fn every_pattern_is_one_piece_with_an_affine_function_of_its_own() {
        for (network, regions) in both() {
            assert_eq!(patterns(&regions).len(), regions.len());
            let functions: BTreeSet<[i64; 3]> = regions
                .iter()
                .map(|region| {
                    let f = network.output.apply(&region.signals)[0];
                    [f.gradient[0], f.gradient[1], f.offset].map(|x| (x * 1e9).round() as i64)
                })
                .collect();
            assert_eq!(functions.len(), regions.len());
        }
    }

    #[test]
    fn regions_tile_the_square_and_none_is_a_sliver() {
        for (_, regions) in both() {
            let areas: Vec<f64> = regions.iter().map(|region| area(&region.polygon)).collect();
            let whole = area(&square(HALF_WIDTH));
            assert!((areas.iter().sum::<f64>() - whole).abs() < 1e-9);
            assert!(areas.iter().all(|area| *area > 0.02 * whole), "{areas:?}");
        }
    }

    #[test]
    fn the_network_agrees_at_the_centre_of_each_region() {
        for (network, regions) in both() {
            for region in &regions {
                let point = centre(&region.polygon);
                let (pattern, value) = evaluate(&network, point);
                assert_eq!(pattern, region.pattern);
                assert!((value - network.output.apply(&region.signals)[0].at(point)).abs() < 1e-12);
            }
        }
    }

    /// The points of a fine grid, off its round numbers so that none lies on a border.
    fn grid() -> impl Iterator<Item = Point> {
        let at = |i: i32| (f64::from(i) + 0.314159) / 500.0 * HALF_WIDTH;
        (-500..500).flat_map(move |i| (-500..500).map(move |j| [at(i), at(j)]))
    }

    #[test]
    fn a_grid_of_samples_sees_these_patterns_and_no_other() {
        for (network, regions) in both() {
            let seen: BTreeSet<Vec<bool>> =
                grid().map(|point| evaluate(&network, point).0).collect();
            assert!(seen.iter().map(Vec::as_slice).eq(patterns(&regions)));
        }
    }

    #[test]
    fn the_function_changes_by_less_than_half_a_percent() {
        let [(f, _), (g, _)] = both();
        let (difference, range) = difference_and_range(&f, &g);
        assert!(difference < 0.005 * range, "{difference} of {range}");

        let (mut largest, mut low, mut high) = (0.0_f64, f64::INFINITY, f64::NEG_INFINITY);
        for point in grid() {
            let (a, b) = (evaluate(&f, point).1, evaluate(&g, point).1);
            (largest, low, high) = (largest.max((a - b).abs()), low.min(a), high.max(a));
        }
        // The grid comes close to the corners, where the extremes are, and does not reach them.
        assert!(largest <= difference && largest > 0.98 * difference);
        assert!(high - low <= range && high - low > 0.98 * range);
    }

    #[test]
    fn a_line_through_a_corner_cuts_nothing_off() {
        let through_corner = Affine { gradient: [1.0, 1.0], offset: 2.0 };
        let whole = Region { polygon: square(1.0), pattern: vec![], signals: vec![] };
        let parts = rectify(&whole, through_corner);
        assert_eq!(parts.len(), 1);
        assert_eq!((&parts[0].pattern, area(&parts[0].polygon)), (&vec![true], 4.0));
        assert_eq!(rectify(&whole, Affine::ZERO)[0].pattern, [false]);
    }

    #[test]
    fn the_page_in_the_docs_is_current() {
        assert_eq!(check(), Ok(()));
        let page = std::fs::read_to_string(picture_path().with_extension("md")).unwrap();
        assert!(page.contains(&summary()), "it does not quote\n{}", summary());
    }
}
