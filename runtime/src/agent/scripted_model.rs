//! A model that plays a script: for tests of everything around a model.
