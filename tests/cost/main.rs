//! Checks that the cost of outside input is linear:   cost
//!
//! Each shape of the table is read at one size and at twice that size, first directly, for its memory, then under
//! callgrind (Debian: valgrind), for its instructions, whose count does not depend on the load of the machine. Twice the
//! bytes may take at most [`MOST_GROWTH`] times the instructions. Memory is bounded by [`MEMORY_BASE`] and
//! [`MEMORY_PER_BYTE`].
//!
//! Heads also pass through the gateway, to a replica and back.

mod gate;

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use cost::{Parser, SHAPES};
use peak_alloc::PeakAlloc;

use gate::Gate;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Size of the smaller of two inputs for a parser, in bytes.
const SIZE: usize = 8 << 10;
/// Size for the gateway. Both inputs arrive in one piece, and fit the buffer that each thread has anyway.
const GATEWAY_SIZE: usize = 7 << 10;
/// Runs in each of which a case must grow too fast to be wrong: the kernel decides how many pieces a read of the
/// gateway returns, and on a busy machine that differs between the two sizes.
const RUNS: usize = 3;
/// Size for the gateway with input in pieces, for which buffers must grow.
const PIECES_SIZE: usize = 20 << 10;
/// Size for a stack file, which takes more memory per byte and comes only from those who deploy.
const STACK_SIZE: usize = 2 << 10;
/// Largest growth of the instructions for twice the size.
const MOST_GROWTH: f64 = 2.2;
/// Instructions that do not depend on the size and vary between runs. Smaller counts are ignored.
const NOISE: u64 = 200_000;
/// Bytes of memory that an input of any size may take.
const MEMORY_BASE: usize = 384 << 10;
/// Bytes of memory for each byte of an input.
const MEMORY_PER_BYTE: usize = 40;
/// Bytes of memory for each byte of a stack file.
const STACK_MEMORY_PER_BYTE: usize = 128;

/// The code that is measured.
type Run = Box<dyn Fn(&Gate)>;

/// A measurement with an input of one size.
struct Case {
    name: String,
    run: Run,
    bytes: usize,
    memory_per_byte: usize,
}

fn cases() -> Vec<[Case; 2]> {
    let mut cases = Vec::new();
    let mut add = |name: String, size: usize, input: &dyn Fn(usize) -> (usize, Run)| {
        let memory_per_byte = if size == STACK_SIZE { STACK_MEMORY_PER_BYTE } else { MEMORY_PER_BYTE };
        cases.push([size, 2 * size].map(|size| {
            let (bytes, run) = input(size);
            Case { name: name.clone(), run, bytes, memory_per_byte }
        }));
    };
    for shape in SHAPES {
        let name = format!("{:?}: {}", shape.parser, shape.name);
        // A read returns the bytes that have arrived, possibly a single one.
        let pieces = if shape.parser.reads_pieces() { vec![usize::MAX, 1] } else { vec![usize::MAX] };
        for piece in pieces {
            let name = if piece == 1 { format!("{name}, byte by byte") } else { name.clone() };
            let size = if shape.parser == Parser::Stack { STACK_SIZE } else { SIZE };
            add(name, size, &|size| {
                let input = (shape.build)(size);
                let bytes = input.len();
                let run = move |_: &Gate| _ = black_box(shape.parser.read(&input, piece.min(input.len())));
                (bytes, Box::new(run))
            });
        }
        match shape.parser {
            Parser::Request => add(format!("gateway, {name}"), GATEWAY_SIZE, &|size| {
                let input = (shape.build)(size);
                (input.len(), Box::new(move |gate| gate.call(&input, usize::MAX)))
            }),
            Parser::Response => add(format!("gateway, {name}"), GATEWAY_SIZE, &|size| {
                let answer = (shape.build)(size);
                (answer.len(), Box::new(move |gate| gate.answered(&answer, usize::MAX)))
            }),
            _ => {}
        }
    }
    let long = |parser| {
        let shape = SHAPES.iter().find(|shape| shape.parser == parser && shape.name == "a long header");
        shape.expect("it is in the table").build
    };
    add("gateway, a request in pieces".to_owned(), PIECES_SIZE, &|size| {
        let input = long(Parser::Request)(size);
        (input.len(), Box::new(move |gate| gate.call(&input, 32)))
    });
    add("gateway, a response in pieces".to_owned(), PIECES_SIZE, &|size| {
        let answer = long(Parser::Response)(size);
        (answer.len(), Box::new(move |gate| gate.answered(&answer, 32)))
    });
    cases
}

/// Marks a boundary: callgrind writes its counts each time this is called.
#[inline(never)]
fn count_is_due() {
    black_box(());
}

fn main() -> anyhow::Result<ExitCode> {
    let cases = cases();
    match std::env::args().nth(1).as_deref() {
        None => {
            let mut grown = check_instructions(&cases)?;
            for _ in 1..RUNS {
                if grown.is_empty() {
                    break;
                }
                let again = check_instructions(&cases)?;
                grown.retain(|(name, _)| again.iter().any(|(other, _)| other == name));
            }
            let grown = grown.into_iter().map(|(_, text)| text).collect();
            let wrong = [check_memory(&cases), grown].concat();
            for wrong in &wrong {
                eprintln!("more than was paid for: {wrong}");
            }
            println!("{} of {} cost more than they pay", wrong.len(), cases.len());
            Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some("count") => {
            let gate = Gate::open()?;
            // Everything that is created only once is created before.
            gate.call(b"GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n", usize::MAX);
            for case in cases.iter().flatten() {
                count_is_due();
                (case.run)(&gate);
                count_is_due();
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => bail!("{other}: cost takes no arguments"),
    }
}

fn check_memory(cases: &[[Case; 2]]) -> Vec<String> {
    let gate = Gate::open().expect("a gateway");
    let measure = |case: &Case| {
        (case.run)(&gate);
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        (case.run)(&gate);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        let most = MEMORY_BASE + case.memory_per_byte * case.bytes;
        (taken > most)
            .then(|| format!("{}: {} bytes take {taken} of memory, at most {most}", case.name, case.bytes))
    };
    cases.iter().flatten().filter_map(measure).collect()
}

/// Counts all cases once. Returns the names of those that grow too fast, each with its figures.
fn check_instructions(cases: &[[Case; 2]]) -> anyhow::Result<Vec<(String, String)>> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("count");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--dump-before=*count_is_due*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .arg("count")
        .stdout(Stdio::null())
        .status()
        .context("valgrind cannot be started: install the package valgrind")?;
    ensure!(status.success(), "valgrind: {status}");
    let mut wrong = Vec::new();
    for (number, [case, twice]) in cases.iter().enumerate() {
        // Each case is counted between two calls; the code between two cases is counted after them.
        let counted = |index: usize| counted(&out, 4 * number + 2 * index + 2);
        let (one, two) = (counted(0)?, counted(1)?);
        let growth = two as f64 / (one.max(1)) as f64;
        println!(
            "{:60} {:>7} bytes {one:>10} instructions, {growth:.2} times with {}",
            case.name, case.bytes, twice.bytes
        );
        if growth > MOST_GROWTH && two > NOISE {
            let text = format!(
                "{}: {one} instructions for {} bytes, {two} for {}: {growth:.2} times",
                case.name, case.bytes, twice.bytes
            );
            wrong.push((case.name.clone(), text));
        }
    }
    Ok(wrong)
}

/// Reads how many instructions a part of the run has taken.
fn counted(out: &Path, part: usize) -> anyhow::Result<u64> {
    let path = format!("{}.{part}", out.display());
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.parse().ok()).with_context(|| format!("{path} has no total"))
}
