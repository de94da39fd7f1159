//! The program: everything is in the library's `cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, and the first byte in each has the kernel clear two megabytes: too much for many threads
    // with small objects. Best effort.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    kmsfs::cli::run()
}
