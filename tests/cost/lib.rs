//! Inputs whose cost could grow faster than their size: one table of shapes, each of any size.
//!
//! [`SHAPES`] has two uses. The program counts instructions and memory for a size and for twice that size, and the
//! properties here check that the result of parsing does not depend on how an input arrives.

use std::collections::HashMap;
use std::fmt::Write as _;

use axum::extract::Query;
use http1::{Decoder, HeadError, HeadScan, RequestHead, ResponseHead, slots};
use model::wire::{AlexaRequest, Deployment};

/// An input of any size, and its parser.
#[derive(Debug)]
pub struct Shape {
    /// The feature that grows with the size.
    pub name: &'static str,
    /// The parser of the input.
    pub parser: Parser,
    /// Builds the input, with about this many bytes.
    pub build: fn(usize) -> Vec<u8>,
}

/// The parser of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parser {
    /// The head of a request, as a connection reads it.
    Request,
    /// The head of a response after interim ones, as a call reads it.
    Response,
    /// A body in chunks.
    Chunks,
    /// A function as JSON.
    Deployment,
    /// A request of an Alexa skill.
    Alexa,
    /// The query of a request to the API.
    Query,
    /// A stack file.
    Stack,
    /// A schedule.
    Schedule,
    /// The codes after which a call is made again.
    Codes,
    /// A duration.
    Duration,
}

/// The result of parsing an input, and its number of attempts.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes that were read, or the error.
    pub result: Result<usize, String>,
    /// Number of times that a parser was started.
    pub parses: usize,
}

impl Parser {
    /// Returns whether the parser reads bytes as they arrive.
    pub fn reads_pieces(self) -> bool {
        matches!(self, Self::Request | Self::Response | Self::Chunks)
    }

    /// Reads `input`, which arrives in pieces of this many bytes.
    pub fn read(self, input: &[u8], piece: usize) -> Reading {
        let text = || std::str::from_utf8(input).expect("made as text");
        let whole = |result: Result<(), String>| Reading { result: result.map(|()| input.len()), parses: 1 };
        match self {
            Self::Request => heads(input, piece, |bytes| {
                let mut slots = slots();
                let parsed = RequestHead::parse(bytes, &mut slots)?;
                Ok(parsed.map(|(head, length)| {
                    let named = (0..head.headers.len()).filter(|index| head.connection.names(*index)).count();
                    (length, named < usize::MAX)
                }))
            }),
            Self::Response => heads(input, piece, |bytes| {
                let mut slots = slots();
                let parsed = ResponseHead::parse(bytes, &mut slots, false)?;
                Ok(parsed.map(|(head, length)| (length, head.code >= 200)))
            }),
            Self::Chunks => chunks(input, piece),
            Self::Deployment => whole(json::<Deployment>(input)),
            Self::Alexa => whole(json::<AlexaRequest>(input)),
            Self::Query => {
                let uri = http::Uri::builder().path_and_query(text()).build();
                let query = uri.map_err(|error| error.to_string()).and_then(|uri| {
                    Query::<HashMap<String, String>>::try_from_uri(&uri).map_err(|error| error.to_string())
                });
                whole(query.map(drop))
            }
            Self::Stack => {
                let variable = |name: &str| (name == "A").then(|| "value".to_owned());
                let files = model::stack::Files::Nowhere;
                let stack = model::stack::parse(text(), &files, &|_| true, Some(&variable));
                whole(stack.map(drop).map_err(|error| error.to_string()))
            }
            Self::Schedule => whole(schedule::Schedule::parse(text()).map(drop)),
            Self::Codes => whole(text().parse::<model::function::Codes>().map(drop)),
            Self::Duration => whole(quantity::parse_duration(text()).map(drop)),
        }
    }
}

fn json<T: for<'de> serde::Deserialize<'de>>(input: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<T>(input).map(drop).map_err(|error| error.to_string())
}

/// Reads heads until the last one, as readers of a socket do.
fn heads(
    input: &[u8],
    piece: usize,
    parse: impl Fn(&[u8]) -> Result<Option<(usize, bool)>, HeadError>,
) -> Reading {
    let (mut scan, mut parses, mut used, mut arrived) = (HeadScan::default(), 0, 0, 0);
    loop {
        while scan.is_due(&input[used..arrived]) {
            parses += 1;
            match parse(&input[used..arrived]) {
                Err(error) => return Reading { result: Err(error.to_string()), parses },
                Ok(None) => break,
                Ok(Some((length, is_last))) => {
                    used += length;
                    scan = HeadScan::default();
                    if is_last {
                        return Reading { result: Ok(used), parses };
                    }
                }
            }
        }
        if arrived == input.len() {
            return Reading { result: Err("cut".to_owned()), parses };
        }
        arrived = input.len().min(arrived + piece);
    }
}

fn chunks(input: &[u8], piece: usize) -> Reading {
    let (mut decoder, mut used, mut arrived) = (Decoder::chunked(), 0, 0);
    loop {
        match decoder.decode(&input[used..arrived]) {
            Err(error) => return Reading { result: Err(error.to_string()), parses: 1 },
            Ok(found) => {
                used += found.skip + found.data;
                if found.end {
                    return Reading { result: Ok(used), parses: 1 };
                }
                if found.data > 0 {
                    continue;
                }
            }
        }
        if arrived == input.len() {
            return Reading { result: Err("cut".to_owned()), parses: 1 };
        }
        arrived = input.len().min(arrived + piece);
    }
}

/// Repeats `text` as often as it fits into `size` bytes.
fn fill(text: &str, size: usize) -> String {
    text.repeat(size / text.len())
}

/// Returns one line per 256 bytes of `size`, each made from its number and the bytes that it may have.
fn lines(size: usize, line: impl Fn(usize, usize) -> String) -> String {
    let count = (size / 256).clamp(1, 120);
    (0..count).map(|number| line(number, size / count)).collect()
}

fn request(headers: &str) -> Vec<u8> {
    format!("GET /function/env HTTP/1.1\r\nHost: a\r\n{headers}\r\n").into()
}

fn response(headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{headers}\r\n").into()
}

/// Returns headers of which half is one `Connection` header of short tokens.
fn connection_tokens(size: usize) -> String {
    let others = lines(size / 2, |number, room| format!("X-{number}: {}\r\n", fill("v", room - 10)));
    format!("Connection: {}z\r\n{others}", fill("a,", size / 2))
}

/// Returns as many options and headers as are allowed, all of one length and different only at their ends.
fn connection_names(size: usize) -> String {
    let name = |number: usize| format!("{}{number:03}", fill("x", size / 156));
    let names: Vec<String> = (900..932).map(name).collect();
    let others: String = (0..120).map(|number| format!("{}:\r\n", name(number))).collect();
    format!("Connection: {}\r\n{others}", names.join(","))
}

fn deployment(rest: &str) -> Vec<u8> {
    format!(r#"{{"service":"env","image":"a/b:1",{rest}}}"#).into()
}

fn numbered(size: usize, separator: &str, one: impl Fn(usize) -> String) -> String {
    let mut out = String::new();
    let mut number = 0;
    while out.len() < size {
        let _ = write!(out, "{}{}", if number == 0 { "" } else { separator }, one(number));
        number += 1;
    }
    out
}

macro_rules! shapes {
    ($($parser:ident $name:literal $build:expr;)*) => {
        /// All shapes.
        pub const SHAPES: &[Shape] = &[$(Shape { name: $name, parser: Parser::$parser, build: $build },)*];
    };
}

shapes! {
    Request "a long header" |size| request(&format!("X: {}\r\n", fill("v", size)));
    Request "many headers" |size| request(&lines(size, |number, room| format!("X-{number}: {}\r\n", fill("v", room - 10))));
    Request "headers without number" |size| request(&fill("a:\r\n", size));
    Request "a long method" |size| format!("{} /function/env HTTP/1.1\r\nHost: a\r\n\r\n", fill("M", size)).into();
    Request "a long path" |size| format!("GET /function/env/{} HTTP/1.1\r\nHost: a\r\n\r\n", fill("p/", size)).into();
    Request "a long query" |size| format!("GET /function/env?{} HTTP/1.1\r\nHost: a\r\n\r\n", fill("a=%20&", size)).into();
    Request "a long name of a function" |size| format!("GET /function/{} HTTP/1.1\r\nHost: a\r\n\r\n", fill("f", size)).into();
    Request "a long host" |size| format!("GET /function/env HTTP/1.1\r\nHost: {}\r\n\r\n", fill("h", size)).into();
    Request "a long authority" |size| format!("GET http://{}/function/env HTTP/1.1\r\nHost: a\r\n\r\n", fill("h.", size)).into();
    Request "many hosts" |size| request(&fill("Host: a\r\n", size));
    Request "blank lines in front" |size| format!("{}GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n", fill("\r\n", size)).into();
    Request "tokens of Connection" |size| request(&connection_tokens(size));
    Request "names in Connection" |size| request(&connection_names(size));
    Request "lines of Connection" |size| request(&lines(size, |_, room| format!("Connection: {}\r\n", fill("t", room - 14))));
    Request "a list in Accept" |size| request(&format!("Accept: {}\r\n", fill("a/b;q=1,", size)));
    Request "a list in Prefer" |size| request(&format!("Prefer: {}\r\n", fill("wait=1,a;b,", size)));
    Request "a list in Upgrade" |size| request(&format!("Connection: upgrade\r\nUpgrade: {}\r\n", fill("h2,", size)));
    Request "a list in Transfer-Encoding" |size| request(&format!("Transfer-Encoding: {}\r\n", fill("chunked,", size)));
    Request "lists in X-Forwarded-For" |size| request(&lines(size, |_, room| format!("X-Forwarded-For: {}\r\n", fill("1.2.3.4,", room - 20))));
    Request "lists in Via" |size| request(&lines(size, |_, room| format!("Via: {}\r\n", fill("1.1 other,", room - 8))));
    Request "cookies" |size| request(&format!("Cookie: {}\r\n", fill("a=b; ", size)));
    Request "digits in Content-Length" |size| request(&format!("Content-Length: {}\r\n", fill("0", size)));
    Response "a long header" |size| response(&format!("X: {}\r\n", fill("v", size)));
    Response "many headers" |size| response(&lines(size, |number, room| format!("X-{number}: {}\r\n", fill("v", room - 10))));
    Response "a long reason" |size| format!("HTTP/1.1 200 {}\r\nContent-Length: 0\r\n\r\n", fill("r", size)).into();
    Response "blank lines in front" |size| format!("{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", fill("\r\n", size)).into();
    Response "tokens of Connection" |size| response(&connection_tokens(size));
    Response "names in Connection" |size| response(&connection_names(size));
    Response "interim heads" |size| format!("{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", fill("HTTP/1.1 103 E\r\nA: b\r\n\r\n", size)).into();
    Chunks "extensions" |size| format!("1;{}\r\na\r\n0\r\n\r\n", fill("e", size / 4)).into();
    Chunks "short chunks" |size| format!("{}0\r\n\r\n", fill("1\r\na\r\n", size)).into();
    Chunks "trailers" |size| format!("0\r\n{}\r\n", fill("t: v\r\n", size / 4)).into();
    Deployment "depth" |size| deployment(&format!(r#""unknown":{}"#, fill("[", size)));
    Deployment "an object" |size| deployment(&format!(r#""labels":{{{}}}"#, numbered(size, ",", |number| format!(r#""{number}":"""#))));
    Deployment "the same key" |size| deployment(&format!(r#""labels":{{{}"a":""}}"#, fill(r#""a":"","#, size)));
    Deployment "a list" |size| deployment(&format!(r#""secrets":[{}""]"#, fill(r#""s","#, size)));
    Deployment "escapes" |size| deployment(&format!(r#""envProcess":"{}""#, fill(r"\u00fc", size)));
    Deployment "digits" |size| deployment(&format!(r#""unknown":{}"#, fill("9", size)));
    Alexa "depth" |size| format!(r#"{{"session":{}"#, fill("[", size)).into();
    Alexa "depth that is closed" |size| format!(r#"{{"a":{}{},"request":{{"intent":{{"name":"env"}}}}}}"#, fill("[", size / 2), fill("]", size / 2)).into();
    Alexa "an object" |size| format!(r#"{{"a":{{{}}},"request":{{"intent":{{"name":"env"}}}}}}"#, numbered(size, ",", |number| format!(r#""{number}":0"#))).into();
    Query "names" |size| format!("/?{}", numbered(size, "&", |number| format!("{number}=%20"))).into();
    Query "the same name" |size| format!("/?{}", fill("a=b&", size)).into();
    Query "separators" |size| format!("/?{}", fill("&", size)).into();
    Stack "functions" |size| format!("functions:\n{}", numbered(size, "\n", |number| format!("  f{number}: {{image: a}}"))).into();
    Stack "depth in lines" |size| (0..).map(|depth| format!("{}a:\n", " ".repeat(depth))).scan(0, |sum, line| { *sum += line.len(); (*sum < size).then_some(line) }).collect::<String>().into();
    Stack "aliases" |size| format!("a: &a [x]\n{}", numbered(size, "\n", |number| format!("b{number}: *a"))).into();
    Stack "documents" |size| fill("---\nfunctions: {f: {image: a}}\n", size).into();
    Stack "variables" |size| format!("functions: {{f: {{image: a}}}}\n#{}", fill("${A}", size)).into();
    Stack "defaults within defaults" |size| format!("#{}{}\n", fill("${B:-", size), fill("}", size / 5)).into();
    Stack "braces that are not closed" |size| format!("#{}\n", fill("$${", size)).into();
    Schedule "a list" |size| format!("{}0 * * * *", fill("0,", size)).into();
    Schedule "fields" |size| fill("* ", size).into();
    Codes "a list" |size| fill("500,", size).into();
    Duration "units" |size| fill("1ms", size).into();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn shapes_in_pieces() -> impl Strategy<Value = &'static Shape> {
        select(SHAPES.iter().filter(|shape| shape.parser.reads_pieces()).collect::<Vec<_>>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_result_of_parsing_does_not_depend_on_how_the_input_arrives(
            shape in shapes_in_pieces(),
            size in 600_usize..3000,
            piece in 1_usize..3000,
        ) {
            let input = (shape.build)(size);
            let whole = shape.parser.read(&input, input.len());
            let pieces = shape.parser.read(&input, piece);
            prop_assert_eq!(&pieces.result, &whole.result, "{}", shape.name);
            let heads = if shape.name == "interim heads" { size / 20 + 1 } else { 1 };
            prop_assert!(pieces.parses <= 2 * heads, "{} was parsed {} times", shape.name, pieces.parses);
        }
    }

    #[test]
    fn a_shape_has_the_requested_size() {
        for shape in SHAPES {
            let sizes = [8 << 10, 16 << 10].map(|size| (shape.build)(size).len());
            let growth = sizes[1] * 100 / sizes[0];
            assert!((180..=210).contains(&growth), "{} {:?} {sizes:?}", shape.name, shape.parser);
        }
    }
}
