//! A remote model behind the OpenAI protocol.
