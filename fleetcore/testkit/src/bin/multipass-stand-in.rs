//! The stand-in for the `multipass` program, see [`fleetcore_testkit::multipass`].

fn main() -> std::process::ExitCode {
    fleetcore_testkit::multipass::main()
}
