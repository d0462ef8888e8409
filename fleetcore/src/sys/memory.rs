//! Giving freed memory back to the system.

/// Memory an arena of glibc may keep at its top after a free. By default the limit grows with the largest block that was
/// ever freed, so that after the first large output a server holds 15 MB more for good; with this it is 4 MB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEEP_BYTES: std::ffi::c_int = 1 << 20;

/// Asks the allocator to give memory back soon after it was freed, for programs that run for weeks. For the `main` of a
/// server: the setting is of the whole process, so the library never makes it by itself. Does nothing where the
/// allocator is not that of glibc.
pub fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // From <malloc.h>; part of the ABI.
        const M_TRIM_THRESHOLD: std::ffi::c_int = -1;
        // SAFETY: the signature is that of mallopt(3), which takes the allocator's own lock and no pointers.
        unsafe extern "C" {
            safe fn mallopt(param: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        if mallopt(M_TRIM_THRESHOLD, KEEP_BYTES) == 0 {
            tracing::debug!("the allocator keeps its own idea of what to give back");
        }
    }
}
