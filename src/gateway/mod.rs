//! HTTP in: routes, authentication, limits, and every status code.
