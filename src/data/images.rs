//! Converting images to model inputs: scaling, resizing, channels, normalisation, layout.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma};
use ndarray::{Array3, ArrayView3, ArrayViewD, Axis, Ix3};

use super::{DeclaredInput, Normalisation, push_once, show_known};
use crate::error::Result;
use crate::tensor::Tensor;

/// One channel of an image, values in [0, 1].
type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// Weights of red, green and blue in grey (ITU-R BT.601).
const LUMINANCE: [f32; 3] = [0.299, 0.587, 0.114];

/// The form of an image that an input takes; `None` keeps that of the image.
struct Wanted {
    layout: Layout,
    channels: Option<usize>,
    height: Option<usize>,
    width: Option<usize>,
}

/// The order of an input's axes.
#[derive(Clone, Copy)]
enum Layout {
    /// Channels, rows, columns.
    ChannelsFirst,
    /// Rows, columns, channels.
    ChannelsLast,
    /// Rows, columns.
    Grey,
    /// One axis, as channels first.
    Flat,
}

/// Splits an array of bytes, with samples along the leading axis, into images of rows × columns ×
/// channels. `None` unless the samples look like images with 1 or 3 channels.
pub(super) fn unpack(
    bytes: ArrayViewD<'_, u8>,
    input: &DeclaredInput,
) -> Result<Option<Vec<Array3<u8>>>> {
    let is_channels = |d: usize| d == 1 || d == 3;
    let hwc = match bytes.shape() {
        [_, _, _] => bytes.insert_axis(Axis(3)),
        &[_, first, _, last] => match (is_channels(first), is_channels(last)) {
            (false, true) => bytes,
            (true, false) => bytes.permuted_axes(vec![0, 2, 3, 1]),
            (false, false) => return Ok(None),
            (true, true) => {
                return Err(input.misfit(format!(
                    "images of shape {} could have their channels first or last; give the data \
                     as float32 in the model's own layout",
                    show_known(bytes.shape())
                )));
            }
        },
        _ => return Ok(None),
    };
    let images = hwc.axis_iter(Axis(0)).map(ndarray::ArrayBase::into_dimensionality::<Ix3>);
    Ok(images.map(|image| image.ok().map(|image| image.to_owned())).collect())
}

/// Fits images of rows × columns × channels to `input`. All have the same number of channels, 1 or 3.
pub(super) fn fit(
    images: &[Array3<u8>],
    input: &DeclaredInput,
    normalisation: &Normalisation,
    warnings: &mut Vec<String>,
) -> Result<Tensor> {
    if !input.dtype.is_float() {
        return Err(input.misfit("images need a floating-point input"));
    }
    let Some(&[height, width, channels]) =
        images.first().map(Array3::shape).and_then(|s| s.first_chunk())
    else {
        return Err(input.misfit("there are no images"));
    };
    let wanted = wanted(input, [channels, height, width])?;
    let varied = images.iter().any(|image| image.shape() != [height, width, channels]);
    if varied && (wanted.height.is_none() || wanted.width.is_none()) {
        return Err(input.misfit(format!(
            "the images differ in size and the input does not say which it wants; fix it with \
             `shape` {}=1x3x224x224 or the like",
            input.name
        )));
    }

    let (to_height, to_width) = (wanted.height.unwrap_or(height), wanted.width.unwrap_or(width));
    let to_channels = wanted.channels.unwrap_or(channels);
    let shape = match wanted.layout {
        Layout::ChannelsFirst => vec![to_channels, to_height, to_width],
        Layout::ChannelsLast => vec![to_height, to_width, to_channels],
        Layout::Grey => vec![to_height, to_width],
        Layout::Flat => vec![to_channels * to_height * to_width],
    };
    let mean = per_channel(&normalisation.mean, 0.0, to_channels, "mean", input)?;
    let std = per_channel(&normalisation.std, 1.0, to_channels, "standard deviation", input)?;
    let mut values = Vec::with_capacity(input.elements(images.len(), &shape)?);
    match (channels, to_channels) {
        (1, 3) => push_once(warnings, "grey images are repeated in three channels".into()),
        (3, 1) => push_once(warnings, "colour images are turned to grey".into()),
        _ => {}
    }
    if varied || [to_height, to_width] != [height, width] {
        push_once(warnings, format!("images are resized to {to_height}x{to_width}"));
    }

    for image in images {
        let mut planes = planes(image.view(), to_channels);
        for (channel, plane) in planes.iter_mut().enumerate() {
            if (plane.height() as usize, plane.width() as usize) != (to_height, to_width) {
                *plane = resize(plane, to_width as u32, to_height as u32, FilterType::Triangle);
            }
            for value in plane.iter_mut() {
                *value = (*value - mean[channel]) / std[channel];
            }
        }
        match wanted.layout {
            Layout::ChannelsLast => {
                let planes: Vec<&[f32]> = planes.iter().map(|p| p.as_raw().as_slice()).collect();
                let pixels = 0..to_height * to_width;
                values.extend(pixels.flat_map(|pixel| planes.iter().map(move |p| p[pixel])));
            }
            _ => planes.iter().for_each(|plane| values.extend_from_slice(plane.as_raw())),
        }
    }
    let shape: Vec<usize> = std::iter::once(images.len()).chain(shape).collect();
    Tensor::f32(&shape, values).map(|tensor| tensor.cast(input.dtype))
}

/// The channels of an image as planes, converted to the wanted number of channels.
fn planes(image: ArrayView3<'_, u8>, wanted: usize) -> Vec<Plane> {
    let (height, width, channels) = image.dim();
    let plane = |value: &dyn Fn(usize, usize) -> f32| {
        Plane::from_fn(width as u32, height as u32, |x, y| Luma([value(y as usize, x as usize)]))
    };
    let scaled = |row, column, channel| f32::from(image[[row, column, channel]]) / 255.0;
    match (channels, wanted) {
        (3, 1) => {
            let grey = |row, column| {
                LUMINANCE
                    .iter()
                    .enumerate()
                    .map(|(c, weight)| weight * scaled(row, column, c))
                    .sum()
            };
            vec![plane(&grey)]
        }
        (1, wanted) => vec![plane(&|row, column| scaled(row, column, 0)); wanted],
        _ => (0..channels).map(|c| plane(&|row, column| scaled(row, column, c))).collect(),
    }
}

/// One value for each channel: `default` if there is none, or a single value repeated.
fn per_channel(
    values: &[f32],
    default: f32,
    channels: usize,
    what: &str,
    input: &DeclaredInput,
) -> Result<Vec<f32>> {
    match values {
        [] => Ok(vec![default; channels]),
        [value] => Ok(vec![*value; channels]),
        values if values.len() == channels => Ok(values.to_vec()),
        values => Err(input.misfit(format!(
            "{} values given for the {what} of {channels} channels",
            values.len()
        ))),
    }
}

/// The form that an input takes, from its dimensions, for images of `[channels, height, width]`.
fn wanted(input: &DeclaredInput, [channels, height, width]: [usize; 3]) -> Result<Wanted> {
    let misfit = |wish: &str| {
        input.misfit(format!(
            "images of {} do not fit {wish}",
            show_known(&[height, width, channels])
        ))
    };
    let wanted = match *input.sample_dims() {
        [size] => {
            let pixels = height * width;
            let channels = match size {
                None => channels,
                Some(size) if size == channels * pixels => channels,
                Some(size) if size == pixels => 1,
                Some(_) => return Err(misfit("a flat input of this size; resize them first")),
            };
            // A flat input fixes no height and width, so images must have one size.
            Wanted { layout: Layout::Flat, channels: Some(channels), height: None, width: None }
        }
        [height, width] => Wanted { layout: Layout::Grey, channels: Some(1), height, width },
        [first, middle, last] => {
            let first_is = matches!(first, Some(1 | 3));
            let last_is = matches!(last, Some(1 | 3));
            let channels_first = match (first_is, last_is) {
                (true, false) => true,
                (false, true) => false,
                // `1x?x3` and the like: take the axis that has the images' number of channels.
                (true, true) => match (first == Some(channels), last == Some(channels)) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => {
                        return Err(misfit(
                            "an input whose first or last axis could be the channels; give the \
                             data as float32 in the model's own layout",
                        ));
                    }
                },
                // ONNX models usually have the channels first. Take them as last only if the first axis
                // has a known size.
                (false, false) if first.is_none() => true,
                (false, false) if last.is_none() => false,
                (false, false) => return Err(misfit("an input without 1 or 3 channels")),
            };
            if channels_first {
                let layout = Layout::ChannelsFirst;
                Wanted { layout, channels: first, height: middle, width: last }
            } else {
                let layout = Layout::ChannelsLast;
                Wanted { layout, channels: last, height: first, width: middle }
            }
        }
        _ => return Err(misfit("an input with this number of axes")),
    };
    match (wanted.height, wanted.width) {
        (Some(0), _) | (_, Some(0)) => Err(misfit("an input without pixels")),
        (h, w) if h.max(w).is_some_and(|d| d > u32::MAX as usize) => {
            Err(misfit("an input of this size"))
        }
        _ => Ok(wanted),
    }
}
