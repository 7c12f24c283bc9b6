//! libFuzzer around one of the targets of the agent, which `MUSTER_FUZZ` names. `tests/fuzz/run` builds and calls it.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libfuzzer_sys::fuzz_target;
use muster::fuzz::{TARGETS, Target};

/// Counts the bytes that are held, and the most that were held since it was last asked.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
    // What was there before the count began may be given back: that is no amount held.
    if held < usize::MAX / 2 {
        MOST.fetch_max(held, Ordering::Relaxed);
    }
}

fn gave(bytes: usize) {
    HELD.fetch_sub(bytes, Ordering::Relaxed);
}

// An allocator can be written in no other way. Every call goes to the system's own allocator with the very arguments that came.
#[expect(unsafe_code, reason = "the trait is unsafe; each call is passed on unchanged")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave(layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let wanted = std::env::var("MUSTER_FUZZ").unwrap_or_default();
        TARGETS.iter().find(|target| target.name == wanted).unwrap_or_else(|| {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            panic!("MUSTER_FUZZ must name one of {}", names.join(", "))
        })
    })
}

/// A panic is a finding, unless it comes out of chitchat: the agent catches those, and that it does is what the targets `message`
/// and `member` are for. One that is not caught still ends the run.
fn prepare() {
    target();
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|at| !at.file().contains("/chitchat-")) {
            said(panic);
        }
    }));
}

fuzz_target!(
    init: prepare(),
    |data: &[u8]| {
        let target = target();
        let data = &data[..data.len().min(target.longest)];
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        (target.run)(data);
        let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
        assert!(most <= target.memory, "{most} bytes of memory for an input of {} bytes", data.len());
    }
);
