//! Generated protobuf types, and the only conversions between them and `model`.
