//! Read buffers, lent out per thread.
//!
//! A connection that waits holds none: thousands of idle clients cost their sockets, not their
//! buffers. Nothing is allocated on the way of a call once a thread has warmed up.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that a buffer holds before it grows: enough for nearly every head, and a piece of a body
/// that is large against the cost of a system call.
const SIZE: usize = 16 << 10;
/// Buffers that a thread keeps for the next connection. Few are in use at once, because what waits and is empty has
/// none; and after many have been, each that is kept may keep the allocator from giving back all of its neighbours.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A stream that shows what it holds without giving it away.
pub trait Peek {
    /// Copies the first bytes that have arrived, and leaves them. Never waits.
    fn peek(&self, bytes: &mut [u8]) -> io::Result<usize>;
}

/// Bytes that were read and not yet used. Takes its memory when it is first filled, and gives it
/// back when it is empty and released, or dropped.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What was read and not yet used.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether everything was used.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Marks the first `count` bytes as used.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start, "more consumed than there is");
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            // What has grown for one head is not kept for the time until the next one.
            if self.bytes.len() > SIZE {
                self.bytes = Vec::new();
            }
        }
    }

    /// How many bytes of memory it holds.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives the memory back if nothing is in it.
    pub fn release(&mut self) {
        if !self.is_empty() || self.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() == SIZE {
            // A thread that is ending has no list any more; then the memory is simply freed.
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    free.push(bytes);
                }
            });
        }
    }

    /// Whether nothing more can be read before something is used or the buffer grows.
    pub fn is_full(&self) -> bool {
        !self.bytes.is_empty() && self.start == 0 && self.end == self.bytes.len()
    }

    /// Returns whether to read more before the data is used. The data is moved to the front only to gain at
    /// least as much room as it takes; otherwise each of many pipelined requests would move all those behind
    /// it.
    pub fn has_room(&self) -> bool {
        self.end < self.bytes.len() || self.start >= self.end - self.start
    }

    /// Returns how many bytes of memory it holds to read more, if it is not to grow beyond `limit`.
    pub fn capacity_to_read(&self, limit: usize) -> usize {
        if self.bytes.is_empty() || self.is_full() { self.grown(limit) } else { self.capacity() }
    }

    fn grown(&self, limit: usize) -> usize {
        (self.bytes.len() * 2).clamp(SIZE.min(limit), limit)
    }

    /// Makes room for more, up to `limit` bytes in all. `false` when it is that large already.
    pub fn grow(&mut self, limit: usize) -> bool {
        if self.bytes.len() >= limit {
            return false;
        }
        // New memory comes zeroed from the allocator, at no cost.
        let mut bytes = vec![0; self.grown(limit)];
        bytes[..self.end].copy_from_slice(&self.bytes[..self.end]);
        self.bytes = bytes;
        true
    }

    /// Returns what a stream would fill it with while it is empty.
    pub fn peek(&mut self, from: &impl Peek) -> io::Result<&[u8]> {
        debug_assert!(self.is_empty(), "what was peeked at is not held");
        self.take();
        let count = from.peek(&mut self.bytes)?;
        Ok(&self.bytes[..count])
    }

    fn take(&mut self) {
        if self.bytes.is_empty() {
            self.bytes =
                FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten().unwrap_or_else(|| vec![0; SIZE]);
        }
    }

    /// Reads once. `Ok(0)` is the end of the stream; a full buffer must not be filled.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.take();
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        debug_assert!(self.end < self.bytes.len(), "a full buffer is filled");
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.start = 0;
        self.end = 0;
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(buffer: &mut Buffer, mut from: &[u8]) -> usize {
        std::future::poll_fn(|cx| buffer.poll_fill(&mut from, cx)).await.expect("a slice can be read")
    }

    #[tokio::test]
    async fn what_is_left_moves_to_the_front_when_the_end_is_reached() {
        let mut buffer = Buffer::default();
        assert_eq!(fill(&mut buffer, &vec![1; SIZE]).await, SIZE);
        assert!(buffer.is_full());
        buffer.consume(SIZE - 2);
        assert_eq!(fill(&mut buffer, &[2, 3]).await, 2);
        assert_eq!(buffer.data(), [1, 1, 2, 3]);
        assert!(!buffer.is_full());
    }

    #[tokio::test]
    async fn data_moves_to_the_front_only_for_as_much_room_as_it_takes() {
        let mut buffer = Buffer::default();
        assert!(buffer.has_room());
        fill(&mut buffer, &vec![1; SIZE]).await;
        assert!(!buffer.has_room());
        buffer.consume(SIZE / 2 - 1);
        assert!(!buffer.has_room());
        buffer.consume(1);
        assert!(buffer.has_room());
        assert_eq!(fill(&mut buffer, &[2; SIZE]).await, SIZE / 2);
    }

    #[tokio::test]
    async fn it_grows_to_its_limit_and_no_further() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, &vec![7; SIZE]).await;
        assert!(buffer.grow(SIZE + 10));
        assert_eq!(fill(&mut buffer, &[8; 64]).await, 10);
        assert!(buffer.is_full());
        assert!(!buffer.grow(SIZE + 10));
        assert_eq!(buffer.data().len(), SIZE + 10);
    }

    #[tokio::test]
    async fn what_has_grown_is_given_back_once_all_of_it_was_used() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, &vec![7; SIZE]).await;
        assert!(buffer.grow(SIZE * 4));
        buffer.consume(SIZE - 1);
        assert_eq!(buffer.capacity(), SIZE * 2);
        buffer.consume(1);
        assert_eq!(buffer.capacity(), 0);
        assert_eq!(fill(&mut buffer, b"ab").await, 2);
        assert_eq!(buffer.capacity(), SIZE);
    }

    #[tokio::test]
    async fn memory_is_given_back_only_when_nothing_is_in_it() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, b"ab").await;
        buffer.consume(1);
        buffer.release();
        assert_eq!(buffer.data(), b"b");
        buffer.consume(1);
        buffer.release();
        assert_eq!(buffer.bytes.capacity(), 0);
        assert_eq!(FREE.with_borrow(Vec::len), 1);
    }
}
