//! The hub: REST for people, gRPC for agents, and the loops that decide.
