//! Parts of a list of models, for machines that share the work.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::source::ModelRef;

/// One of several parts, counted from 1.
///
/// A model belongs to a part by the digest of its address. So every machine that is given the same
/// addresses finds the same parts, without a look at the models, and a model that is added moves no
/// other.
///
/// ```
/// use gradalign::rank::Shard;
/// use gradalign::source::ModelRef;
///
/// let model = ModelRef::new("models/mlp.onnx");
/// let parts: Vec<Shard> = (1..=4).map(|i| format!("{i}/4").parse().unwrap()).collect();
/// assert_eq!(parts.iter().filter(|part| part.contains(&model)).count(), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// The `index`-th of `count` parts.
    ///
    /// # Errors
    /// When `index` is not between 1 and `count`.
    pub fn new(index: u64, count: u64) -> Result<Self> {
        if (1..=count).contains(&index) {
            return Ok(Shard { index, count });
        }
        Err(Error::Usage(format!(
            "there is no shard {index} of {count}: shards count from 1, as in 1/{}",
            count.max(1)
        )))
    }

    /// The part that the environment of a job array tells: Slurm's, or that of an indexed job of
    /// Kubernetes, which knows its number of parts only from `count`. Also says what told it.
    ///
    /// # Errors
    /// When there is no such environment, or it numbers its tasks unevenly.
    pub fn of_environment(
        variable: impl Fn(&str) -> Option<String>,
        count: Option<u64>,
    ) -> Result<(Self, String)> {
        const SLURM: &str = "SLURM_ARRAY_TASK_ID";
        const KUBERNETES: &str = "JOB_COMPLETION_INDEX";
        let number = |name: &str| -> Result<Option<u64>> {
            let parse = |text: String| {
                text.trim().parse().map_err(|_| {
                    Error::Usage(format!("{name} is '{text}', which is not a whole number"))
                })
            };
            variable(name).map(parse).transpose()
        };
        if let Some(task) = number(SLURM)? {
            let missing = |name: &str| Error::Usage(format!("{SLURM} is set, and {name} is not"));
            let get = |name: &str| number(name)?.ok_or_else(|| missing(name));
            let (tasks, least, most) = (
                get("SLURM_ARRAY_TASK_COUNT")?,
                get("SLURM_ARRAY_TASK_MIN")?,
                get("SLURM_ARRAY_TASK_MAX")?,
            );
            if count.is_some_and(|count| count != tasks) {
                return Err(Error::Usage(format!(
                    "`shards` is {}, and Slurm's array has {tasks} tasks; leave `shards` out",
                    count.unwrap_or_default()
                )));
            }
            let uneven = || {
                Error::Usage(format!(
                    "Slurm's array has {tasks} tasks between {least} and {most}, unevenly numbered: which \
                     part is that of task {task} cannot be told. Number them from 1 to \
                     {tasks}, or give `shard` as i/n"
                ))
            };
            let steps = tasks.checked_sub(1).ok_or_else(uneven)?;
            let range = most.checked_sub(least).ok_or_else(uneven)?;
            let step = range.checked_div(steps).unwrap_or(1);
            let from = task.checked_sub(least).ok_or_else(uneven)?;
            let is_even = step > 0 && range == step * steps && from % step == 0 && task <= most;
            if !is_even {
                return Err(uneven());
            }
            let told = format!("{SLURM}={task} of {least}-{most}");
            return Ok((Shard::new(from / step + 1, tasks)?, told));
        }
        if let Some(index) = number(KUBERNETES)? {
            let count = count.ok_or_else(|| {
                Error::Usage(format!(
                    "{KUBERNETES} tells which part this is, but not how many there are: give `shards`"
                ))
            })?;
            let told = format!("{KUBERNETES}={index}");
            return Ok((Shard::new(index.saturating_add(1), count)?, told));
        }
        Err(Error::Usage(format!(
            "neither {SLURM} nor {KUBERNETES} is set: this is no task of a job array; give `shard` as i/n"
        )))
    }

    /// Whether `model` belongs to this part.
    pub fn contains(self, model: &ModelRef) -> bool {
        let digest = Sha256::digest(&model.address);
        let mut first = [0; 8];
        first.iter_mut().zip(digest).for_each(|(to, byte)| *to = byte);
        u64::from_be_bytes(first) % self.count == self.index - 1
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// `i/n`, from `1/n` to `n/n`.
    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some((index.trim().parse().ok()?, count.trim().parse().ok()?))
        });
        let (index, count) = numbers.ok_or_else(|| {
            Error::Usage(format!("'{text}' is no shard: give it as i/n, such as 2/4, or auto"))
        })?;
        Shard::new(index, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_is_in_one_part() {
        let models = ModelRef::all((0..500).map(|i| format!("m/{i}.onnx")));
        let parts: Vec<Shard> = (1..=4).map(|i| Shard::new(i, 4).unwrap()).collect();
        let sizes = parts.iter().map(|part| models.iter().filter(|m| part.contains(m)).count());
        let sizes: Vec<usize> = sizes.collect();
        assert_eq!(sizes.iter().sum::<usize>(), 500);
        assert!(sizes.iter().all(|size| (90..160).contains(size)), "{sizes:?}");
        assert!(models.iter().all(|m| parts.iter().filter(|part| part.contains(m)).count() == 1));
        // Held, so that stores of parts made by different versions fit together.
        let first: Vec<bool> = models[..6].iter().map(|m| parts[0].contains(m)).collect();
        assert_eq!(first, [false, false, false, false, true, false]);
    }

    #[test]
    fn parts_are_numbers_between_one_and_all() {
        assert_eq!("2/4".parse::<Shard>().unwrap().to_string(), "2 of 4");
        for text in ["0/4", "5/4", "1/0", "2", "a/b", "-1/4", "1/4/2", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    fn environment(set: &[(&str, &str)], count: Option<u64>) -> Result<String> {
        let variable = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Shard::of_environment(variable, count).map(|(shard, _)| shard.to_string())
    }

    /// A Slurm array: the task, and the count, least and greatest of all.
    fn slurm([task, count, least, most]: [&str; 4]) -> Result<String> {
        environment(
            &[
                ("SLURM_ARRAY_TASK_ID", task),
                ("SLURM_ARRAY_TASK_COUNT", count),
                ("SLURM_ARRAY_TASK_MIN", least),
                ("SLURM_ARRAY_TASK_MAX", most),
            ],
            None,
        )
    }

    #[test]
    fn job_arrays_tell_their_parts() {
        for (array, part) in [
            (["1", "4", "1", "4"], "1 of 4"),
            (["0", "4", "0", "3"], "1 of 4"),
            (["3", "4", "0", "3"], "4 of 4"),
            (["14", "3", "10", "18"], "2 of 3"),
            (["7", "1", "7", "7"], "1 of 1"),
        ] {
            assert_eq!(slurm(array).unwrap(), part);
        }
        for uneven in [["2", "3", "1", "7"], ["2", "3", "1", "5"], ["9", "4", "1", "4"]] {
            assert!(slurm(uneven).unwrap_err().to_string().contains("unevenly"), "{uneven:?}");
        }
        assert!(slurm(["a", "4", "1", "4"]).unwrap_err().to_string().contains("is 'a'"));
        let index = [("JOB_COMPLETION_INDEX", "0")];
        assert_eq!(environment(&index, Some(3)).unwrap(), "1 of 3");
        assert!(environment(&index, None).unwrap_err().to_string().contains("`shards`"));
        assert!(environment(&[("JOB_COMPLETION_INDEX", "3")], Some(3)).is_err());
        assert!(environment(&[], Some(3)).unwrap_err().to_string().contains("no task"));
    }
}
