//! Which devices this machine offers to the engine.
