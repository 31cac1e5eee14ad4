//! Limits of Linux control groups, in which containers and batch systems run their processes.

use std::fs;
use std::path::{Path, PathBuf};

/// The bytes of memory that the control groups of this process still allow it; `None` where they have
/// no limit.
pub(super) fn available() -> Option<u64> {
    let read = |file| fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    let (groups, mounts) = (read("cgroup"), read("mountinfo"));
    [V1, V2].iter().filter_map(|version| version.available(&groups, &mounts)).min()
}

/// A version of control groups: how it names what counts here.
struct Version {
    /// The type of its file system.
    file_system: &'static str,
    /// What its hierarchy for memory is called, in `/proc/self/cgroup` and in the options of its mount.
    controller: &'static str,
    limits: &'static [&'static str],
    usage: &'static str,
    /// The entry of `memory.stat` with the cached files that the kernel drops when memory is short.
    droppable: &'static str,
}

const V1: Version = Version {
    file_system: "cgroup",
    controller: "memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    droppable: "total_inactive_file",
};

/// Above `memory.high` processes are slowed down until they are of no use.
const V2: Version = Version {
    file_system: "cgroup2",
    controller: "",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    droppable: "inactive_file",
};

impl Version {
    /// What the group in the list `groups` allows, and each group around it that a mount shows.
    fn available(&self, groups: &str, mounts: &str) -> Option<u64> {
        let group = groups.lines().find_map(|line| self.group(line))?;
        let (root, mount) = mounts.lines().find_map(|line| self.mount(line))?;
        // A container may be shown its own group as the root, by a path that is not its own.
        let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
        let own = mount.join(below);
        own.ancestors()
            .take_while(|folder| folder.starts_with(&mount))
            .filter_map(|folder| self.left(folder))
            .min()
    }

    /// The path of the group, from a line of `/proc/self/cgroup`: `4:memory:/a`, or `0::/a`.
    fn group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == self.controller).then_some(path)
    }

    /// The group that is mounted and where, from a line of `/proc/self/mountinfo`: fields 4 and 5, and
    /// after a dash the type, the source and the options.
    fn mount<'a>(&self, line: &'a str) -> Option<(&'a str, PathBuf)> {
        let (first, last) = line.split_once(" - ")?;
        let mut fields = first.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let mut fields = last.split(' ');
        let (file_system, options) = (fields.next()?, fields.nth(1)?);
        let is_of_memory =
            self.controller.is_empty() || options.split(',').any(|o| o == self.controller);
        // The kernel writes a space as \040.
        let mount = PathBuf::from(mount.replace("\\040", " "));
        (file_system == self.file_system && is_of_memory).then_some((root, mount))
    }

    /// What the group of `folder` allows beside what it holds.
    fn left(&self, folder: &Path) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let limit = self.limits.iter().filter_map(|file| number(file)).min()?;
        let stat = read("memory.stat").unwrap_or_default();
        let droppable = stat.lines().find_map(|line| {
            line.strip_prefix(self.droppable)?.strip_prefix(' ')?.trim().parse::<u64>().ok()
        });
        let held = number(self.usage).unwrap_or(0).saturating_sub(droppable.unwrap_or(0));
        Some(limit.saturating_sub(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with files.
    fn put(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    #[test]
    fn version_2_takes_the_least_of_all_groups_around() {
        let root = tempfile::tempdir().unwrap();
        let mounts = format!(
            "30 23 0:28 / /proc rw - proc proc rw\n\
             41 31 0:38 / {} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            root.path().display()
        );
        let (job, task) = (root.path().join("job"), root.path().join("job/task"));
        put(&task, &[("memory.max", "max\n"), ("memory.high", "max\n"), ("memory.current", "50")]);
        put(&job, &[("memory.max", "1000\n"), ("memory.current", "400\n")]);
        let available = |groups: &str| V2.available(groups, &mounts);
        assert_eq!(available("0::/job/task\n"), Some(600));
        // Cached files make room.
        put(&job, &[("memory.stat", "anon 7\ninactive_file 150\nactive_file 9\n")]);
        assert_eq!(available("4:memory:/other\n0::/job/task\n"), Some(750));
        put(&task, &[("memory.high", "700")]);
        assert_eq!(available("0::/job/task\n"), Some(650));
        assert_eq!(available("0::/\n"), None);
        assert_eq!(available("4:memory:/job\n"), None);
        put(&job, &[("memory.current", "5000")]);
        assert_eq!(available("0::/job\n"), Some(0));
    }

    #[test]
    fn version_1_knows_its_hierarchy_and_a_container_its_own_root() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("a b");
        let line = |group: &str, options: &str| {
            let at = mount.display().to_string().replace(' ', "\\040");
            format!("35 31 0:32 {group} {at} rw - cgroup cgroup {options}\n")
        };
        put(
            &mount,
            &[
                ("memory.limit_in_bytes", "1000"),
                ("memory.usage_in_bytes", "300"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"),
            ],
        );
        let groups = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n";
        for mounts in [line("/docker/abc", "rw,memory"), line("/", "rw,memory")] {
            assert_eq!(V1.available(groups, &mounts), Some(800), "{mounts}");
        }
        assert_eq!(V1.available(groups, &line("/", "rw,cpu")), None);
        assert_eq!(V1.available("0::/\n", &line("/", "rw,memory")), None);
        assert_eq!(V2.available(groups, &line("/", "rw,memory")), None);
    }
}
