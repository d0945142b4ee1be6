//! Where a body ends: by its length, by chunks, or with the connection.

use std::io::Write as _;

use crate::Framing;

/// Bytes of chunk extensions and trailers that a whole body may have. Nothing reads them, so they
/// are only a way to keep a connection busy.
const MAX_OVERHEAD: u32 = 16 << 10;

/// Finds a body's data in what was read. It holds no bytes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoder {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks, as far as they were read.
    Chunked(Chunked),
    /// Everything until the connection ends.
    UntilClose,
}

/// The next thing in the input: `skip` bytes of framing, then `data` bytes of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes to pass over.
    pub skip: usize,
    /// Bytes of the body that follow.
    pub data: usize,
    /// Whether the body ends here. If not, and there is no data, more input is needed.
    pub end: bool,
}

/// Why a body's framing was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a chunk size where one must be.
    #[error("a chunk size is not a hexadecimal number")]
    Size,
    /// A chunk does not end where its size says.
    #[error("a chunk does not end with a line break")]
    ChunkEnd,
    /// A control character in an extension or trailer, or a line break that is not CR LF.
    #[error("a chunk extension or trailer has a forbidden character")]
    Line,
    /// More extensions and trailers than anyone needs.
    #[error("chunk extensions and trailers are too long")]
    Overhead,
}

/// The state between the bytes of a chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    overhead: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// Before the size.
    SizeStart,
    /// In the size: its value so far.
    Size(u64),
    /// In blanks after the size.
    Padding(u64),
    /// In an extension, after the size.
    Extension(u64),
    /// After the CR of the size's line.
    SizeLf(u64),
    /// In the data: so many bytes are still to come.
    Data(u64),
    /// After the data: before its CR.
    DataCr,
    /// After the data: before its LF.
    DataLf,
    /// At the beginning of a trailer's line.
    TrailerStart,
    /// In a trailer.
    Trailer,
    /// After a trailer's CR.
    TrailerLf,
    /// After the last CR.
    EndLf,
    /// After the last chunk.
    End,
}

impl From<Framing> for Decoder {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::chunked(),
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

impl Decoder {
    /// A body of chunks, none read yet.
    pub fn chunked() -> Self {
        Self::Chunked(Chunked { at: At::SizeStart, overhead: 0 })
    }

    /// Whether the whole body has been seen.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.at == At::End,
            Self::UntilClose => false,
        }
    }

    /// Passes over all of the body that is in `input`. Returns how many bytes that are.
    pub fn skip(&mut self, input: &[u8]) -> Result<usize, FrameError> {
        let mut at = 0;
        loop {
            let found = self.decode(&input[at..])?;
            at += found.skip + found.data;
            if found.end || found.data == 0 {
                return Ok(at);
            }
        }
    }

    /// Looks at `input`, which begins where the last call's `skip` and `data` ended.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, FrameError> {
        match self {
            Self::Length(left) => {
                let data = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= data as u64;
                Ok(Decoded { skip: 0, data, end: *left == 0 })
            }
            Self::Chunked(chunked) => chunked.decode(input),
            Self::UntilClose => Ok(Decoded { skip: 0, data: input.len(), end: false }),
        }
    }
}

impl Chunked {
    fn decode(&mut self, input: &[u8]) -> Result<Decoded, FrameError> {
        let mut skip = 0;
        while self.at != At::End {
            if let At::Data(left) = self.at {
                let rest = input.len() - skip;
                let data = usize::try_from(left).map_or(rest, |left| left.min(rest));
                let left = left - data as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                return Ok(Decoded { skip, data, end: false });
            }
            let Some(&byte) = input.get(skip) else {
                return Ok(Decoded { skip, data: 0, end: false });
            };
            self.step(byte)?;
            skip += 1;
        }
        Ok(Decoded { skip, data: 0, end: true })
    }

    /// One byte of framing. Line breaks are CR LF and nothing else: a lone LF is what request
    /// smuggling is made of.
    fn step(&mut self, byte: u8) -> Result<(), FrameError> {
        self.at = match (&self.at, byte) {
            (At::SizeStart, _) => At::Size(hex_digit(byte).ok_or(FrameError::Size)?),
            (At::Size(size) | At::Padding(size) | At::Extension(size), b'\r') => At::SizeLf(*size),
            (At::Size(size) | At::Padding(size), b';') => At::Extension(*size),
            // Blanks may stand before an extension, and some servers pad sizes with them.
            (At::Size(size) | At::Padding(size), b' ' | b'\t') => {
                let size = *size;
                self.count_overhead(byte)?;
                At::Padding(size)
            }
            (At::Size(size), _) => {
                let size = *size;
                let digit = hex_digit(byte).ok_or(FrameError::Size)?;
                if size == 0 {
                    // Zeros in front are many bytes for nothing.
                    self.count_overhead(byte)?;
                }
                // More than an exbibyte could only overflow.
                if size >> 56 != 0 {
                    return Err(FrameError::Size);
                }
                At::Size(size * 16 + digit)
            }
            (At::Padding(_), _) => return Err(FrameError::Size),
            (At::Extension(size), _) => {
                let size = *size;
                self.count_overhead(byte)?;
                At::Extension(size)
            }
            (At::SizeLf(0), b'\n') => At::TrailerStart,
            (At::SizeLf(size), b'\n') => At::Data(*size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::SizeStart,
            (At::DataCr | At::DataLf, _) => return Err(FrameError::ChunkEnd),
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerStart | At::Trailer, _) => {
                self.count_overhead(byte)?;
                At::Trailer
            }
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::End,
            (At::SizeLf(_) | At::TrailerLf | At::EndLf, _) => return Err(FrameError::Line),
            (At::Data(_) | At::End, _) => unreachable!("handled by decode"),
        };
        Ok(())
    }

    fn count_overhead(&mut self, byte: u8) -> Result<(), FrameError> {
        if (byte < b' ' && byte != b'\t') || byte == 0x7f {
            return Err(FrameError::Line);
        }
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(FrameError::Overhead) } else { Ok(()) }
    }
}

fn hex_digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Appends `data` as one chunk. An empty chunk would end the body, so it is none.
pub fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write!(out, "{:x}\r\n", data.len()).expect("a vector takes all bytes");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the end of a body of chunks.
pub fn end_chunks(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes `input` as it comes in pieces that end at `cuts`; the body, what is left after it,
    /// and whether it ended.
    fn read(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), FrameError> {
        let mut decoder = Decoder::chunked();
        let mut body = Vec::new();
        let mut at = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(input.len());
        for end in ends {
            loop {
                let found = decoder.decode(&input[at..end])?;
                body.extend_from_slice(&input[at + found.skip..at + found.skip + found.data]);
                at += found.skip + found.data;
                if found.end {
                    return Ok((body, input.len() - at, true));
                }
                if found.data == 0 {
                    break;
                }
            }
        }
        Ok((body, input.len() - at, false))
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read() {
        let input = b"5\r\nhello\r\n1;a=\"b\"\r\n \r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nnext";
        assert_eq!(read(input, &[]), Ok((b"hello 0123456789".to_vec(), 4, true)));
        // RFC 9112, 7.1.1, allows blanks before an extension, and any number of zeros; Go and nginx take blanks
        // that pad a size.
        for size in ["5 \t;a=\"b;c\" ; d", "5  ", "000000000000000000005", "0005 "] {
            let input = format!("{size}\r\nhello\r\n000 \r\n\r\n");
            assert_eq!(read(input.as_bytes(), &[]), Ok((b"hello".to_vec(), 0, true)), "{size:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (input, error) in [
            (&b"\r\n"[..], FrameError::Size),
            (b"+5\r\nhello\r\n", FrameError::Size),
            (b"-1\r\n", FrameError::Size),
            (b"0x5\r\nhello\r\n", FrameError::Size),
            (b" 5\r\nhello\r\n", FrameError::Size),
            (b"5 0\r\nhello\r\n", FrameError::Size),
            (b"5 \nhello\r\n", FrameError::Size),
            (b";a\r\n", FrameError::Size),
            (b"5\nhello\r\n", FrameError::Size),
            (b"5;a\nb\r\nhello\r\n", FrameError::Line),
            (b"5\rhello\r\n", FrameError::Line),
            (b"5\r\nhello0\r\n\r\n", FrameError::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", FrameError::ChunkEnd),
            (b"fffffffffffffffff\r\n", FrameError::Size),
            (b"0\r\nA: b\nGET / HTTP/1.1\r\n\r\n", FrameError::Line),
            (b"0\r\n\rx", FrameError::Line),
        ] {
            assert_eq!(read(input, &[]), Err(error), "{:?}", String::from_utf8_lossy(input));
        }
        let long = [b"1;", vec![b'a'; MAX_OVERHEAD as usize + 1].as_slice()].concat();
        assert_eq!(read(&long, &[]), Err(FrameError::Overhead));
        for padding in [b' ', b'0'] {
            let long = [b"0", vec![padding; MAX_OVERHEAD as usize + 1].as_slice()].concat();
            assert_eq!(read(&long, &[]), Err(FrameError::Overhead));
        }
    }

    #[test]
    fn a_length_takes_its_bytes_and_no_more() {
        let mut decoder = Decoder::Length(5);
        assert_eq!(decoder.decode(b"abc"), Ok(Decoded { skip: 0, data: 3, end: false }));
        assert_eq!(decoder.decode(b"defgh"), Ok(Decoded { skip: 0, data: 2, end: true }));
        assert!(decoder.is_done());
        assert!(Decoder::Length(0).is_done());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_body(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
            after in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                push_chunk(&mut wire, chunk);
            }
            end_chunks(&mut wire);
            wire.extend_from_slice(&after);
            prop_assert_eq!(read(&wire, &cuts), Ok((chunks.concat(), after.len(), true)));
        }

        #[test]
        fn a_body_that_is_cut_never_ends(
            chunk in prop::collection::vec(any::<u8>(), 1..300),
            cut in any::<usize>(),
        ) {
            let mut wire = Vec::new();
            push_chunk(&mut wire, &chunk);
            end_chunks(&mut wire);
            wire.truncate(cut % wire.len());
            let (body, _, ended) = read(&wire, &[]).expect("what is there is well formed");
            prop_assert!(!ended && body.len() <= chunk.len());
        }

        #[test]
        fn nonsense_is_refused_or_read_alike_whole_and_in_pieces(
            input in "[0-9a-fA-F;\r\n x]{0,60}",
            cuts in prop::collection::vec(any::<usize>(), 0..6),
        ) {
            let whole = read(input.as_bytes(), &[]);
            let pieces = read(input.as_bytes(), &cuts);
            prop_assert_eq!(whole, pieces);
        }
    }
}
