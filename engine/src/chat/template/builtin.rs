//! Templates for checkpoints that bring none. Exact to the token: see the tests.
//!
//! Sources: Meta's prompt formats for Llama 3, 3.1 and 3.2, and OpenAI's ChatML. Llama 3.1 and 3.2 know tool
//! turns as `ipython`; their tools are written by [`super::tools`] like everyone's, into the system message,
//! with the date lines that these models were trained with.

/// Llama 3: no default system message, no date.
pub(super) const LLAMA_3: &str = "\
{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n
{{ message.content | trim }}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{{ '' }}{% endif %}";

/// Llama 3.1: a system block always, with the dates of its training.
pub(super) const LLAMA_3_1: &str = "\
{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n
Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n
{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}\
<|eot_id|>{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n
{{ message.content | trim }}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{{ '' }}{% endif %}";

/// Llama 3.2: laid out as 3.1.
pub(super) const LLAMA_3_2: &str = LLAMA_3_1;

/// ChatML.
pub(super) const CHATML: &str = "\
{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}";
