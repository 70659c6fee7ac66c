/**
 * Chat formats for models that come without a template of their own. Nothing uses one unless it is asked for: a model speaks well only the
 * format that it was trained on.
 */
export const chatFormats = {
  /** ChatML (OpenAI, 2023): `<|im_start|>role`, a line's end, the message, `<|im_end|>`. */
  chatml: `{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`,
} as const;

export type ChatFormat = keyof typeof chatFormats;

export const chatFormatNames = Object.keys(chatFormats) as ChatFormat[];
