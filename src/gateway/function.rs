//! `/function/{name}`: the data path.
