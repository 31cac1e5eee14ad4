//! The `gradalign` command.

fn main() -> std::process::ExitCode {
    gradalign::cli::main()
}
