//! Two things done side by side: most machines have a processor for each.

use std::thread;

/// Runs one function here and the other in a thread of its own.
pub fn concurrently<A, B: Send>(here: impl FnOnce() -> A, aside: impl FnOnce() -> B + Send) -> (A, B) {
    thread::scope(|scope| {
        let aside = scope.spawn(aside);
        let here = here();
        (here, aside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
