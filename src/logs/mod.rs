//! Function output: read from FIFOs, kept in bounded files, sent to journald, served by the API.
