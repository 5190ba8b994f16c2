r"""The protocols as Jinja, saved with checkpoints so that other programs write the same dialogs.

Tests hold them equal to `encode`. Functions and calls may arrive as OpenAI nests them or bare; arguments arrive as an
object, which is what servers hand to templates (text is put in as it is, where a syntax writes JSON). Every tag trims
the space around it, and `\n` is Jinja's escape.

A template is a protocol's body with two macros of its call syntax: `offer` writes the functions, `write` the calls.
"""

from __future__ import annotations

from keyword import kwlist
from string import ascii_letters, digits

from align.chat.calls import SYNTAXES, CallSyntax
from align.chat.tool_prompts import (
    HERMES_AFTER,
    HERMES_BEFORE,
    JSON_BEFORE,
    PYTHON_BEFORE,
    TAG_AFTER,
    TAG_BEFORE,
    TAG_TYPES,
    TOOL_PROMPTS,
)


def template(protocol: str, syntax: CallSyntax) -> str:
    """The Jinja of a protocol (`chatml`, `llama3`) that writes calls in a syntax."""
    refusal = f"{{{{- raise_exception('The {syntax} syntax makes one call a message.') -}}}}"
    limit = "" if SYNTAXES[syntax].parallel else f"{{%- if calls | length > 1 -%}}{refusal}{{%- endif -%}}"
    return "\n".join(
        [
            *([_LITERAL] if syntax == "python_list" else []),
            f"{{%- macro offer() -%}}\n{_TOOL_PROMPTS[syntax].strip()}\n{{%- endmacro -%}}",
            f"{{%- macro write(calls) -%}}\n{limit}{_CALLS[syntax].strip()}\n{{%- endmacro -%}}",
            f"{{%- set place = {_quoted(TOOL_PROMPTS[syntax].place)} -%}}",
            _BODIES[protocol].strip(),
        ]
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _words(jinja: str, **words: str) -> str:
    """Put texts of ours in the places of capital names."""
    for name, text in words.items():
        jinja = jinja.replace(name, _quoted(text))
    return jinja.replace("<TOOL>", _TOOL)


_TOOL = r"""
    {%- set tool = tool.function if tool.function is defined else tool -%}
    {%- set parameters = tool.parameters if tool.parameters is defined and tool.parameters is not none
        else {'type': 'object', 'properties': {}} -%}
    {%- set tool = {'name': tool.name, 'description': tool.description or '', 'parameters': parameters} -%}
""".strip()

_HERMES_OFFER = r"""
{{- BEFORE -}}
{%- for tool in tools -%}
    <TOOL>
    {{- tool | tojson + ('' if loop.last else '\n') -}}
{%- endfor -%}
{{- AFTER -}}
"""

_JSON_OFFER = r"""
{{- BEFORE -}}
{%- for tool in tools -%}
    <TOOL>
    {{- {'type': 'function', 'function': tool} | tojson(indent=4) + '\n\n' -}}
{%- endfor -%}
"""

_TAG_OFFER = r"""
{{- BEFORE -}}
{%- for tool in tools -%}
    <TOOL>
    {%- set found = namespace(all={}, one={}) -%}
    {%- for name, schema in (tool.parameters.properties or {}).items() -%}
        {%- set schema = schema if schema is mapping else {} -%}
        {%- set type = schema.type if schema.type is defined else 'string' -%}
        {%- set found.one = {
            'description': schema.description if schema.description is defined else '',
            'param_type': TYPES[type] if type is string and type in TYPES else type,
            'required': name in (tool.parameters.required or [])} -%}
        {%- for key, value in schema.items() -%}
            {%- if key not in ['description', 'type', 'param_type', 'required'] -%}
                {%- set found.one = dict(found.one, **{key: value}) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- set found.all = dict(found.all, **{name: found.one}) -%}
    {%- endfor -%}
    {{- "Use the function '" + tool.name + "' to '" + tool.description + "':\n" -}}
    {{- {'name': tool.name, 'description': tool.description, 'parameters': found.all} | tojson + '\n\n' -}}
{%- endfor -%}
{{- AFTER -}}
""".replace("TYPES", str(TAG_TYPES))

_PYTHON_OFFER = r"""
{{- BEFORE -}}
{%- set found = namespace(all=[]) -%}
{%- for tool in tools -%}
    <TOOL>
    {%- set found.all = found.all + [tool] -%}
{%- endfor -%}
{{- found.all | tojson(indent=4) -}}
"""

_TOOL_PROMPTS: dict[CallSyntax, str] = {
    "hermes": _words(_HERMES_OFFER, BEFORE=HERMES_BEFORE, AFTER=HERMES_AFTER),
    "json": _words(_JSON_OFFER, BEFORE=JSON_BEFORE),
    "function_tag": _words(_TAG_OFFER, BEFORE=TAG_BEFORE, AFTER=TAG_AFTER),
    "python_list": _words(_PYTHON_OFFER, BEFORE=PYTHON_BEFORE),
}

_JSON_CALLS = r"""
{%- for call in calls -%}
    {%- set call = call.function if call.function is defined else call -%}
    {%- set arguments = call.arguments if call.arguments is string else call.arguments | tojson -%}
    {{- WRITTEN + ('' if loop.last else '\n') -}}
{%- endfor -%}
"""

_PYTHON_CALLS = r"""
{{- '[' -}}
{%- for call in calls -%}
    {%- set call = call.function if call.function is defined else call -%}
    {%- if call.arguments is not mapping -%}
        {{- raise_exception('The python_list syntax wants arguments as an object.') -}}
    {%- endif -%}
    {{- call.name + '(' -}}
    {%- for key, value in call.arguments.items() -%}
        {{- key + '=' + literal(value) if is_name(key) else '**' + literal({key: value}) -}}
        {{- '' if loop.last else ', ' -}}
    {%- endfor -%}
    {{- ')' + ('' if loop.last else ', ') -}}
{%- endfor -%}
{{- ']' -}}
"""

_CALLS: dict[CallSyntax, str] = {
    "hermes": _JSON_CALLS.replace(
        "WRITTEN",
        r"""'<tool_call>\n{"name": ' + call.name | tojson + ', "arguments": ' + arguments + '}\n</tool_call>'""",
    ),
    "json": _JSON_CALLS.replace(
        "WRITTEN", """'{"name": ' + call.name | tojson + ', "parameters": ' + arguments + '}'"""
    ),
    "function_tag": _JSON_CALLS.replace("WRITTEN", "'<function=' + call.name + '>' + arguments + '</function>'"),
    "python_list": _PYTHON_CALLS,
}

_LITERAL = _words(
    r"""
{%- macro is_name(key) -%}
    {%- if key and key not in KEYWORDS and key[0] not in DIGITS
        and not key | list | reject('in', LETTERS) | list -%}
        {{- 'yes' -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro literal(value) -%}
    {%- if value is string -%}
        {{- value | tojson -}}
    {%- elif value is mapping -%}
        {{- '{' -}}
        {%- for key, each in value.items() -%}
            {{- key | tojson + ': ' + literal(each) + ('' if loop.last else ', ') -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- elif value is iterable -%}
        {{- '[' -}}
        {%- for each in value -%}
            {{- literal(each) + ('' if loop.last else ', ') -}}
        {%- endfor -%}
        {{- ']' -}}
    {%- else -%}
        {{- value -}}
    {%- endif -%}
{%- endmacro -%}
""".strip().replace("KEYWORDS", str(kwlist)),
    DIGITS=digits,
    LETTERS=ascii_letters + digits + "_",
)

_CHATML = r"""
{%- set ns = namespace(offered=not tools) -%}
{%- if place == 'user' and tools and not messages | selectattr('role', 'equalto', 'user') | list -%}
    {{- raise_exception('Functions are offered in the first user message, and there is none.') -}}
{%- endif -%}
{%- if place == 'system' and tools and not (messages and messages[0].role == 'system') -%}
    {{- '<|im_start|>system\n' + offer() + '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- ('' if loop.first else '\n') + '<|im_start|>' + message.role + '\n' -}}
    {%- if place == 'user' and message.role == 'user' and not ns.offered -%}
        {{- offer() -}}
        {%- set ns.offered = true -%}
    {%- endif -%}
    {{- message.content or '' -}}
    {%- if place == 'system' and tools and loop.first and message.role == 'system' -%}
        {{- ('\n\n' if message.content else '') + offer() -}}
    {%- endif -%}
    {%- if message.tool_calls -%}
        {{- ('\n' if message.content else '') + write(message.tool_calls) -}}
    {%- endif -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- ('\n' if messages or tools else '') + '<|im_start|>assistant\n' -}}
{%- endif -%}
"""

_LLAMA3 = r"""
{%- set ns = namespace(offered=not tools, built_in=false) -%}
{%- if messages and messages[0].role == 'system' and messages[0].content -%}
    {%- set ns.built_in = 'Environment: ipython' in messages[0].content.split('\n') | map('trim') | list -%}
{%- endif -%}
{%- if place == 'user' and tools and not messages | selectattr('role', 'equalto', 'user') | list -%}
    {{- raise_exception('Functions are offered in the first user message, and there is none.') -}}
{%- endif -%}
{{- '<|begin_of_text|>' -}}
{%- if place == 'system' and tools and not (messages and messages[0].role == 'system') -%}
    {{- '<|start_header_id|>system<|end_header_id|>\n\n' + offer() + '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + '<|end_header_id|>\n\n' -}}
    {%- if place == 'user' and message.role == 'user' and not ns.offered -%}
        {{- offer() -}}
        {%- set ns.offered = true -%}
    {%- endif -%}
    {{- message.content or '' -}}
    {%- if place == 'system' and tools and loop.first and message.role == 'system' -%}
        {{- ('\n\n' if message.content else '') + offer() -}}
    {%- endif -%}
    {%- set call = namespace(built_in='') -%}
    {%- for made in message.tool_calls or [] -%}
        {%- set made = made.function if made.function is defined else made -%}
        {%- set given = made.arguments if made.arguments is mapping else {} -%}
        {%- set keys = given.keys() | list -%}
        {%- if ns.built_in and made.name in ['brave_search', 'wolfram_alpha'] and keys == ['query']
            and given['query'] is string -%}
            {%- set call.built_in = made.name + '.call(query="' + given['query'] + '")' -%}
        {%- elif ns.built_in and made.name == 'code_interpreter' and keys == ['code'] and given['code'] is string -%}
            {%- set call.built_in = given['code'] -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if call.built_in and message.tool_calls | length > 1 -%}
        {{- raise_exception('A built-in call stands alone in its message.') -}}
    {%- elif call.built_in -%}
        {{- '<|python_tag|>' + call.built_in + '<|eom_id|>' -}}
    {%- elif message.tool_calls -%}
        {{- ('\n' if message.content else '') + write(message.tool_calls) + '<|eot_id|>' -}}
    {%- else -%}
        {{- '<|eot_id|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""

_BODIES = {"chatml": _CHATML, "llama3": _LLAMA3}
