//! Templates for checkpoints that bring none. Exact to the token: see the tests.
//!
//! Sources: Meta's prompt formats for Llama 3, 3.1 and 3.2, and OpenAI's ChatML. Llama 3 and ChatML know no
//! tools: [`super::tools`] writes them into the system message.

/// Llama 3: no default system message, no date.
pub(super) const LLAMA_3: &str = "\
{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n
{{ message.content | trim }}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{{ '' }}{% endif %}";

/// Llama 3.1 and 3.2: a system block always, with the dates of its training; tools in the first user message,
/// where these models were trained to find them; results as `ipython`, as JSON strings.
///
/// The date is the one that the models' own templates name where they are given no clock: a prompt stays the
/// same from day to day, and so do its KV cache and its replays.
pub(super) const LLAMA_3_1: &str = "\
{% if messages and messages[0].role == 'system' %}\
{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}\
{% else %}{% set system = '' %}{% endif %}\
{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n
{% if tools %}{{ 'Environment: ipython\n' }}{% endif %}\
Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n
{{ system }}<|eot_id|>\
{% if tools and not (messages and messages[0].role == 'user') %}\
{{ raise_exception('tools are told in the first user message, and there is none') }}{% endif %}\
{% for message in messages %}\
<|start_header_id|>{% if message.role == 'tool' %}ipython{% else %}{{ message.role }}{% endif %}<|end_header_id|>\n
{% if tools and loop.first %}\
{{ 'Given the following functions, please respond with a JSON for a function call with its proper arguments \
that best answers the given prompt.\n\n\
Respond in the format {\"name\": function name, \"parameters\": dictionary of argument name and its value}.\
Do not use variables.\n\n' }}\
{% for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}{% endif %}\
{% if message.role == 'tool' %}{{ message.content | tojson }}{% else %}{{ message.content | trim }}{% endif %}\
{% for call in message.tool_calls %}\
{% if not loop.first %}; {% elif message.content | trim %}{{ '\n' }}{% endif %}\
{{ '{\"name\": ' }}{{ call.function.name | tojson }}, \"parameters\": {{ call.function.arguments | tojson }}{{ '}' }}\
{% endfor %}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{{ '' }}{% endif %}";

/// ChatML.
pub(super) const CHATML: &str = "\
{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}";
