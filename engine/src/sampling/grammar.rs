//! The grammar of one reply: which tokens may come next.

use std::sync::Arc;

use crate::chat::message::ToolSpec;
use crate::chat::template::ToolCallStyle;
use crate::error::EngineError;
use crate::request::{OutputFormat, ToolChoice};
use crate::tokenizer::Tokenizer;

/// Compiles grammars for one vocabulary. Built once per model.
pub struct GrammarCompiler {}

/// Where one reply stands in its grammar.
pub struct Grammar {}

/// The tokens allowed next, one bit an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    /// Bit `id % 32` of word `id / 32`.
    pub words: Vec<u32>,
}

impl TokenMask {
    /// Whether `id` is allowed.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }
}

impl GrammarCompiler {
    /// A compiler for `tokenizer`'s vocabulary.
    pub fn new(_tokenizer: Arc<Tokenizer>) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// The grammar of a reply, or `None` when any text is fine (no tools, no output format).
    ///
    /// With tools and [`ToolChoice::Auto`]: a call of one of them, or an answer of `output`'s shape.
    pub fn compile(
        &self,
        _tools: &[ToolSpec],
        _choice: &ToolChoice,
        _output: &OutputFormat,
        _style: ToolCallStyle,
    ) -> Result<Option<Grammar>, EngineError> {
        unimplemented!()
    }
}

impl Grammar {
    /// The tokens allowed next. Stop ids are in it exactly where the reply may end; no other special token ever.
    pub fn mask(&mut self) -> Result<TokenMask, EngineError> {
        unimplemented!()
    }

    /// The ids that must come next, if there is only one way on; may be empty. Does not move.
    pub fn forced(&mut self) -> Vec<u32> {
        unimplemented!()
    }

    /// Moves past `id`, which [`Self::mask`] allowed.
    pub fn commit(&mut self, _id: u32) -> Result<(), EngineError> {
        unimplemented!()
    }

    /// Whether nothing may follow but the end.
    pub fn is_finished(&self) -> bool {
        unimplemented!()
    }
}
